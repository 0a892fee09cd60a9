package dev.espalier.optim;

import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import java.util.LinkedHashMap;
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
}
