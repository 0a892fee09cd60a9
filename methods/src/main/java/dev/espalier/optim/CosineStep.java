package dev.espalier.optim;

import dev.espalier.optim.DctAdamW.Bases;
import dev.espalier.optim.DctAdamW.Config;
import dev.espalier.optim.DctAdamW.Feedback;
import dev.espalier.optim.DctAdamW.Path;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Dct;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.ParameterGroup;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * DCT-AdamW's step of one matrix: the choice of cosine vectors, Adam's state that follows them, and what becomes of the rest.
 *
 * @param bases of all matrices
 */
record CosineStep(Config config, Bases bases) implements PerParameter.Rule {

    @Override
    public Map<String, Kept> layout(DType dtype, long[] shape) {
        int rank = config.rank();
        long[] low = tall(shape) ? new long[] {shape[0], rank} : new long[] {rank, shape[1]};
        Map<String, Kept> layout = new LinkedHashMap<>();
        layout.put("exp_avg", new Kept(dtype, low));
        layout.put("exp_avg_sq", new Kept(dtype, low));
        layout.put("indices", new Kept(DType.INT32, rank));
        switch (config.feedback()) {
            case NONE -> {}
            case EXACT -> layout.put("error", new Kept(dtype, shape));
            case EIGHT_BIT -> {
                layout.put("error_codes", new Kept(DType.UINT8, shape));
                layout.put("error_low", new Kept(dtype, shape[0], 1));
                layout.put("error_unit", new Kept(dtype, shape[0], 1));
            }
        }
        return layout;
    }

    @Override
    public void update(Tensor value, Tensor gradient, Memory memory, ParameterGroup group, double learningRate) {
        boolean tall = tall(value.shape());
        double rate = learningRate * group.lrFactor();
        if (group.weightDecay() != 0) {
            value.mul_(1 - rate * group.weightDecay());
        }
        Tensor whole = withError(gradient, memory); // A
        Tensor before = memory.at("indices").to(DType.INT64); // a copy
        Tensor low; // a [out, r] or [r, in]
        Tensor vectors; // D[idx] [r, n]
        if (memory.step() == 1 || memory.step() % config.gap() == 0) {
            Tensor spectrum = spectrum(whole, tall);
            Tensor indices = choose(spectrum, tall, config.rank(), config.norm());
            memory.set("indices", indices);
            if (config.rotate() && memory.step() > 1) {
                for (String kind : List.of("exp_avg", "exp_avg_sq")) {
                    memory.set(kind, carried(memory.at(kind), before, indices, tall ? 1 : 0));
                }
            }
            low = spectrum.indexSelect(tall ? 1 : 0, indices);
            vectors = vectors(indices, whole, tall);
        } else {
            vectors = vectors(before, whole, tall);
            low = tall ? whole.matmul(vectors.t()) : vectors.matmul(whole);
        }
        if (config.feedback() != Feedback.NONE) {
            keepError(whole.sub(back(low, vectors, tall)), memory);
        }
        Tensor step = Inner.direction(memory.at("exp_avg"), memory.at("exp_avg_sq"), low, memory.step(), config.adam());
        value.add_(back(step, vectors, tall), -rate);
    }

    /** S = A Dᵀ [out, n], or D A [n, in]: the cosine transform of the shorter side. */
    private Tensor spectrum(Tensor whole, boolean tall) {
        if (config.path() == Path.FFT) {
            return tall ? Dct.transform(whole) : Dct.transform(whole.t()).t();
        }
        Tensor d = bases.of(Math.min(whole.size(0), whole.size(1)), whole);
        return tall ? whole.matmul(d.t()) : d.matmul(whole);
    }

    private Tensor vectors(Tensor indices, Tensor whole, boolean tall) {
        long n = whole.size(tall ? 1 : 0);
        return config.path() == Path.FFT
                ? Dct.rows(indices, n, whole.dtype())
                : bases.of(n, whole).indexSelect(0, indices);
    }

    /** Numbers of the columns (rows) with the largest p-norms, ascending: int64 [r]. */
    static Tensor choose(Tensor spectrum, boolean tall, int rank, int norm) {
        int along = tall ? 0 : 1;
        Tensor sizes = norm == 1
                ? spectrum.abs().sum(along, false)
                : spectrum.square().sum(along, false); // ranks as its root does
        return sizes.topk(rank).get(1).sort(0, false).get(0);
    }

    /** State of the vectors {@code before} at the places they have in {@code now}; zeros where they are new. */
    static Tensor carried(Tensor state, Tensor before, Tensor now, int dim) {
        Tensor same = before.unsqueeze(1).eq(now.unsqueeze(0)).to(state.dtype()); // [r, r]
        Tensor survives = same.amax(0, false); // [r]
        Tensor carried = state.indexSelect(dim, same.argmax(0));
        return carried.mul(dim == 1 ? survives : survives.unsqueeze(1));
    }

    private static Tensor back(Tensor low, Tensor vectors, boolean tall) {
        return tall ? low.matmul(vectors) : vectors.t().matmul(low);
    }

    private Tensor withError(Tensor gradient, Memory memory) {
        return switch (config.feedback()) {
            case NONE -> gradient;
            case EXACT -> gradient.add(memory.at("error"));
            case EIGHT_BIT ->
                memory.at("error_codes")
                        .to(gradient.dtype())
                        .mul(memory.at("error_unit"))
                        .add(memory.at("error_low"))
                        .add(gradient);
        };
    }

    /** In 8 bits, a row has 255 equal steps from its smallest to its largest value. */
    private void keepError(Tensor error, Memory memory) {
        if (config.feedback() == Feedback.EXACT) {
            memory.set("error", error);
            return;
        }
        Tensor low = error.neg().amax(1, true).neg(); // [out, 1]
        Tensor unit = error.amax(1, true).sub(low).div(255);
        Tensor divisor = unit.maskedFill(unit.eq(0), 1); // a row of one value has no steps
        memory.set("error_codes", error.sub(low).div(divisor).add(0.5).floor().clamp(0, 255));
        memory.set("error_low", low);
        memory.set("error_unit", unit);
    }

    private static boolean tall(long[] shape) {
        return shape[0] >= shape[1];
    }
}
