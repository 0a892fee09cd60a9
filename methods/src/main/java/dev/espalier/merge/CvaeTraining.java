package dev.espalier.merge;

import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.List;
import java.util.Map;

/** Trains the autoencoder of ICM-LoRA: Adam, its rate falling by a cosine to half. */
final class CvaeTraining {

    private CvaeTraining() {}

    /**
     * Trains on sequences.
     *
     * @param x [N, L'], N at least 2
     * @param c their conditions [N, d]
     * @return the last epoch's reconstruction error and divergence
     */
    static Map<String, Double> of(IcmLora.Config config, Cvae cvae, Tensor x, Tensor c, Seed seed) {
        cvae.train(true);
        cvae.trained().values().forEach(p -> p.trainable(true));
        int n = (int) x.size(0);
        double[] last = new double[2];
        try (Grad on = Grad.on();
                Generator order = seed.named("order").generator();
                Generator noise = seed.named("noise").generator();
                Optimizer adam =
                        AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("cvae", cvae.trained(), 1, 0)))) {
            for (int epoch = 0; epoch < config.epochs(); epoch++) {
                double rate = config.learningRate() / 2 * (1 + Math.cos(Math.PI * epoch / (2.0 * config.epochs())));
                last = new double[2];
                try (Scope scope = Scope.open()) {
                    Tensor permuted = order.randperm(n);
                    for (int at = 0; at < n; ) {
                        int size = n - at - config.batch() == 1 ? config.batch() + 1 : Math.min(config.batch(), n - at);
                        Tensor rows = permuted.narrow(0, at, size);
                        double[] parts =
                                step(config, cvae, x.indexSelect(0, rows), c.indexSelect(0, rows), noise, adam, rate);
                        last[0] += parts[0] * size / n;
                        last[1] += parts[1] * size / n;
                        at += size;
                    }
                }
            }
        }
        cvae.train(false);
        return Map.of("reconstruction_error", last[0], "divergence", last[1]);
    }

    private static double[] step(
            IcmLora.Config config, Cvae cvae, Tensor x, Tensor c, Generator noise, Optimizer adam, double rate) {
        try (Scope scope = Scope.open()) {
            Cvae.Code code = cvae.encode(x, c);
            Tensor error = error(cvae.decode(code.at(noise.randn(code.mu().shape())), c), x);
            Tensor divergence = code.divergence();
            error.add(divergence, config.klWeight()).backward();
            adam.step(rate);
            adam.zeroGrad();
            return new double[] {error.item(), divergence.item()};
        }
    }

    /** The mean square over batch and numbers of each reconstruction's distance to its own target. */
    static Tensor error(Tensor reconstructed, Tensor x) {
        return reconstructed.sub(x).square().mean();
    }
}
