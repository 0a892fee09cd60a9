package dev.espalier.adapter;

import dev.espalier.adapter.Dylora.Config;
import dev.espalier.adapter.Dylora.Inactive;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * DyLoRA's steps: one draw of the rank for each, a function of seed and step alone, and rest for the components without part in it.
 */
final class DyloraDraws implements Callback {
    private final Config config;
    private final List<Dylora> layers;
    private final Seed seed;
    private final Map<Parameter, Tensor> before = new LinkedHashMap<>();

    DyloraDraws(Config config, List<Dylora> layers, Seed seed) {
        this.config = config;
        this.layers = layers;
        this.seed = seed;
    }

    @Override
    public void beforeStep(TrainingRun run, long step) {
        layers.get(0).active.drawn = config.draw(seed.at(step));
        if (config.inactive() == Inactive.SPLIT) {
            layers.forEach(each -> each.nested.each((p, k) -> p.trainable(each.learns(k))));
        }
    }

    @Override
    public void afterBackward(StepContext step) {
        if (config.inactive() == Inactive.SPLIT) {
            return;
        }
        for (Dylora each : layers) {
            Parameter a = each.nested.a.get(0);
            Parameter b = each.nested.b.get(0);
            if (config.inactive() == Inactive.RESTORE) {
                before.put(a, a.tensor().detach().clone().keep());
                before.put(b, b.tensor().detach().clone().keep());
            }
            if (config.frozen()) {
                // While the partner of the one component that learns is zero it has no gradient: said here, so that
                // the
                // trainer does not take it for a tensor that hangs on nothing.
                int k = each.active.drawn - 1;
                a.tensor().requiresGrad_(b.tensor().detach().select(1, k).ne(0).any());
                b.tensor().requiresGrad_(a.tensor().detach().select(0, k).ne(0).any());
            }
        }
    }

    @Override
    public void afterStep(StepContext step) {
        try (Grad off = Grad.off()) {
            for (Dylora each : layers) {
                each.nested.a.forEach(p -> p.trainable(true));
                each.nested.b.forEach(p -> p.trainable(true));
                restore(each, each.nested.a.get(0), 0);
                restore(each, each.nested.b.get(0), 1);
            }
        }
        before.clear();
    }

    private void restore(Dylora each, Parameter p, int dim) {
        Tensor old = before.get(p);
        if (old == null) {
            return;
        }
        int b = each.active.drawn;
        if (config.frozen() && b > 1) {
            p.tensor().detach().narrow(dim, 0, b - 1).copy_(old.narrow(dim, 0, b - 1));
        }
        if (b < config.r()) {
            p.tensor().detach().narrow(dim, b, config.r() - b).copy_(old.narrow(dim, b, config.r() - b));
        }
        old.close();
    }
}
