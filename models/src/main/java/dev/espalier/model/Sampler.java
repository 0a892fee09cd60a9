package dev.espalier.model;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.HashSet;
import java.util.List;
import java.util.SplittableRandom;

/** Chooses the next token of one sequence: penalty, temperature, top-k, top-p in transformers' order, then a draw. */
final class Sampler {

    private final GenerationConfig config;
    private final SplittableRandom random;

    Sampler(GenerationConfig config, Seed seed) {
        this.config = config;
        this.random = new SplittableRandom(seed.value());
    }

    /**
     * The next token.
     *
     * @param logits of all tokens; changed
     * @param sequence tokens so far, the prompt included
     */
    int next(float[] logits, List<Integer> sequence) {
        if (config.repetitionPenalty() != 1) {
            for (int id : new HashSet<>(sequence)) {
                logits[id] *= (float) (logits[id] > 0 ? 1 / config.repetitionPenalty() : config.repetitionPenalty());
            }
        }
        return config.doSample() ? draw(logits) : likeliest(logits);
    }

    private static int likeliest(float[] logits) {
        int best = -1;
        for (int i = 0; i < logits.length; i++) {
            if (best < 0 ? !Float.isNaN(logits[i]) : logits[i] > logits[best]) {
                best = i;
            }
        }
        if (best < 0) {
            throw new EspalierException("the model's logits are NaN; its weights are damaged or training diverged");
        }
        return best;
    }

    private int draw(float[] logits) {
        float[] values;
        long[] ids;
        try (Scope scope = Scope.open()) {
            Tensor all = Tensor.of(logits, logits.length);
            int k = config.topK() == 0 ? logits.length : Math.min(config.topK(), logits.length);
            List<Tensor> falling = k < logits.length ? all.topk(k) : all.sort(0, true);
            values = falling.get(0).floats();
            ids = falling.get(1).longs();
        }
        double[] weights = new double[values.length]; // relative to the likeliest
        double total = 0;
        for (int i = 0; i < values.length; i++) {
            weights[i] = Math.exp((values[i] - values[0]) / config.temperature());
            total += weights[i];
        }
        if (Double.isNaN(total)) {
            throw new EspalierException("the model's logits are NaN; its weights are damaged or training diverged");
        }
        int kept = 0;
        double mass = 0;
        while (kept < weights.length && (kept == 0 || mass < config.topP() * total)) {
            mass += weights[kept++];
        }
        double left = random.nextDouble() * mass;
        for (int i = 0; i < kept; i++) {
            left -= weights[i];
            if (left < 0) {
                return (int) ids[i];
            }
        }
        return (int) ids[kept - 1];
    }
}
