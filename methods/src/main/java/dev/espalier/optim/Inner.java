package dev.espalier.optim;

import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.DynamicQuantizer;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** How a gradient that was made smaller becomes a step of the same shape. */
interface Inner {

    /** What it remembers of a gradient of some shape, by kind. */
    Map<String, Kept> layout(DType dtype, long... shape);

    /** What is to be taken off, the rate included. */
    Tensor step(Tensor gradient, Memory memory, double rate);

    /** Whether weight decay comes before the step, as in Adafactor; else after it. */
    default boolean decaysFirst() {
        return false;
    }

    /**
     * Adam's direction, after its moments have taken in a gradient: (m / (1 - β1ᵗ)) / (√(v / (1 - β2ᵗ)) + ε).
     *
     * @param mean m, changed in place
     * @param square v, changed in place
     * @param t updates, this one included
     */
    static Tensor direction(Tensor mean, Tensor square, Tensor gradient, long t, AdamW.Config config) {
        mean.lerp_(gradient, 1 - config.beta1());
        square.mul_(config.beta2()).addcmul_(gradient, gradient, 1 - config.beta2());
        Tensor root = square.sqrt().mul_(1 / Math.sqrt(1 - Math.pow(config.beta2(), (double) t)));
        return mean.div(root.add_(config.eps())).mul_(1 / (1 - Math.pow(config.beta1(), (double) t)));
    }

    /**
     * Adam as GaLore's code has it: ε is added to the square root of V before its bias is corrected.
     *
     * <pre>{@code
     * M ← β1 M + (1 - β1) R,   V ← β2 V + (1 - β2) R²
     * lr √(1 - β2ᵗ) / (1 - β1ᵗ) · M / (√V + ε)
     * }</pre>
     */
    record Adam(AdamW.Config config) implements Inner {

        @Override
        public Map<String, Kept> layout(DType dtype, long... shape) {
            Map<String, Kept> layout = new LinkedHashMap<>();
            layout.put("exp_avg", new Kept(dtype, shape));
            layout.put("exp_avg_sq", new Kept(dtype, shape));
            return layout;
        }

        @Override
        public Tensor step(Tensor gradient, Memory memory, double rate) {
            Tensor mean = memory.at("exp_avg").lerp_(gradient, 1 - config.beta1());
            Tensor square =
                    memory.at("exp_avg_sq").mul_(config.beta2()).addcmul_(gradient, gradient, 1 - config.beta2());
            double t = memory.step();
            double size = rate * Math.sqrt(1 - Math.pow(config.beta2(), t)) / (1 - Math.pow(config.beta1(), t));
            return mean.div(square.sqrt().add_(config.eps())).mul_(size);
        }
    }

    /**
     * Adam whose moments are kept in 8 bits, as bitsandbytes: they are read block by block, take in the gradient in float32, give
     * the step, and are rounded anew.
     */
    record Adam8bit(AdamW.Config config) implements Inner {

        /** A gradient with fewer elements is not worth rounding. */
        private static final long SMALL = 4096;

        @Override
        public Map<String, Kept> layout(DType dtype, long... shape) {
            long n = shape[0] * shape[1];
            Map<String, Kept> layout = new LinkedHashMap<>();
            for (String kind : KINDS) {
                if (n < SMALL) {
                    layout.put(kind, new Kept(DType.FLOAT32, shape));
                } else {
                    layout.put(kind + "_codes", new Kept(DType.UINT8, n));
                    layout.put(kind + "_absmax", new Kept(DType.FLOAT32, DynamicQuantizer.blocks(n)));
                }
            }
            return layout;
        }

        @Override
        public Tensor step(Tensor gradient, Memory memory, double rate) {
            Tensor narrow = gradient.to(DType.FLOAT32);
            Tensor mean = read(memory, 0, narrow);
            Tensor square = read(memory, 1, narrow);
            Tensor direction = direction(mean, square, narrow, memory.step(), config);
            if (gradient.numel() >= SMALL) {
                keep(memory, 0, mean);
                keep(memory, 1, square);
            }
            return direction.mul_(rate).to(gradient.dtype());
        }

        private static Tensor read(Memory memory, int which, Tensor gradient) {
            if (gradient.numel() < SMALL) {
                return memory.at(KINDS.get(which));
            }
            if (memory.step() == 1) {
                return gradient.zerosLike(); // codes of 0 stand for the least entry, not for zero
            }
            return QUANTIZERS
                    .get(which)
                    .dequantize(new DynamicQuantizer.Quantized(
                            memory.at(KINDS.get(which) + "_codes"), memory.at(KINDS.get(which) + "_absmax")))
                    .reshape(gradient.shape());
        }

        private static void keep(Memory memory, int which, Tensor values) {
            DynamicQuantizer.Quantized quantized = QUANTIZERS.get(which).quantize(values);
            memory.set(KINDS.get(which) + "_codes", quantized.codes());
            memory.set(KINDS.get(which) + "_absmax", quantized.absmax());
        }

        private static final List<String> KINDS = List.of("exp_avg", "exp_avg_sq");
        private static final List<DynamicQuantizer> QUANTIZERS =
                List.of(DynamicQuantizer.SIGNED, DynamicQuantizer.UNSIGNED);
    }

    /**
     * Adafactor without its relative step, its scaling by the parameter and its first moment: of the squares only row and column
     * means are kept.
     *
     * <pre>{@code
     * β = 1 - t^-0.8,  row ← β row + (1 - β) mean_j(R² + 1e-30),  col ← likewise over i
     * U = R / √(row col / mean(row)),   step = lr U / max(1, RMS(U))
     * }</pre>
     */
    record Adafactor() implements Inner {

        @Override
        public Map<String, Kept> layout(DType dtype, long... shape) {
            Map<String, Kept> layout = new LinkedHashMap<>();
            layout.put("exp_avg_sq_row", new Kept(dtype, shape[0]));
            layout.put("exp_avg_sq_col", new Kept(dtype, shape[1]));
            return layout;
        }

        @Override
        public Tensor step(Tensor gradient, Memory memory, double rate) {
            double fresh = Math.pow((double) memory.step(), -0.8); // 1 - β
            Tensor squares = gradient.square().add(1e-30);
            Tensor row = memory.at("exp_avg_sq_row").lerp_(squares.mean(1, false), fresh); // [m]
            Tensor column = memory.at("exp_avg_sq_col").lerp_(squares.mean(0, false), fresh); // [k]
            Tensor u = gradient.mul(row.div(row.mean()).rsqrt().unsqueeze(1)).mul(column.rsqrt());
            double rms = u.norm().item() / Math.sqrt((double) u.numel());
            return u.mul(rate / Math.max(1, rms));
        }

        @Override
        public boolean decaysFirst() {
            return true;
        }
    }
}
