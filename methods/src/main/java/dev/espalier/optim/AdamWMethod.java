package dev.espalier.optim;

import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import java.util.Map;

/** {@link AdamW} in the catalogue. */
public final class AdamWMethod implements OptimizerMethod<AdamW.Config> {

    @Override
    public About about() {
        return new About(
                "adamw",
                "optimizer",
                "Adam with decoupled weight decay; the usual one",
                "Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101",
                """
                w ← (1 - lr λ) w,  m ← β1 m + (1 - β1) g,  v ← β2 v + (1 - β2) g²
                w ← w - lr m̂ / (√v̂ + ε);  two numbers of state a parameter""",
                "everything",
                "nothing",
                true);
    }

    @Override
    public AdamW.Config read(Fields f) {
        return read(f, AdamW.Config.DEFAULT);
    }

    /** Adam's settings, for every method that runs Adam inside. */
    static AdamW.Config read(Fields f, AdamW.Config usual) {
        return new AdamW.Config(
                f.number("beta1", usual.beta1()),
                f.number("beta2", usual.beta2()),
                f.number("eps", usual.eps()),
                f.number("weightDecay", usual.weightDecay()));
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "beta1", "decay of the mean gradient, in [0, 1)",
                "beta2", "decay of the mean squared gradient, in [0, 1)",
                "eps", "added to the denominator, above 0",
                "weightDecay", "λ, at least 0");
    }

    @Override
    public Optimizer.Config create(AdamW.Config config, Setting setting) {
        return config;
    }
}
