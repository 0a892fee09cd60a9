package dev.espalier.optim;

import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.train.Optimizer;
import dev.espalier.train.Sgd;
import java.util.Map;

/** {@link Sgd} in the catalogue. */
public final class SgdMethod implements OptimizerMethod<Sgd.Config> {

    @Override
    public About about() {
        return new About(
                "sgd",
                "optimizer",
                "plain gradient descent, with momentum if asked for",
                "Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013",
                "b ← μ b + g,  w ← w - lr b;  one number of state a parameter, none without momentum",
                "everything",
                "nothing",
                true);
    }

    @Override
    public Sgd.Config read(Fields f) {
        return new Sgd.Config(f.number("momentum", 0), f.bool("nesterov", false), f.number("weightDecay", 0));
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "momentum", "μ, in [0, 1)",
                "nesterov", "whether the gradient is taken ahead, with momentum",
                "weightDecay", "λ, at least 0, added to the gradient");
    }

    @Override
    public Optimizer.Config create(Sgd.Config config, Setting setting) {
        return config;
    }
}
