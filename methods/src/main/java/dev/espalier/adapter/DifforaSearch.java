package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Diffora.Config;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ModuleSearch;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * DiffoRA's search on a network: γ of each module by {@link ModuleSearch}, on even batches for the weights and odd ones for γ, and
 * the choice that follows from it.
 */
final class DifforaSearch {

    private static final Logger LOG = LoggerFactory.getLogger(DifforaSearch.class);

    private final Config config;
    private final Attached adapter;
    private final Calibration data;
    private final Map<String, Diffora> layers = new LinkedHashMap<>();

    DifforaSearch(Config config, Attached adapter, Calibration data) {
        this.config = config;
        this.adapter = adapter;
        this.data = data;
        adapter.made().adapters().forEach((path, each) -> layers.put(path, (Diffora) each));
    }

    /** Searches; then each module has what the choice gives it. */
    void run(Seed seed) {
        List<String> paths = List.copyOf(layers.keySet());
        double[] gamma = config.rho() == 0 || config.rho() == 1
                ? new double[paths.size()] // nothing to be found out
                : searched();
        double[] scores = new double[gamma.length];
        for (int m = 0; m < gamma.length; m++) {
            Diffora layer = Objects.requireNonNull(layers.get(paths.get(m)));
            scores[m] = config.byNorm() ? gamma[m] * layer.own.factors().norm() : gamma[m];
        }
        boolean[] chosen = ModuleSearch.select(
                scores,
                config.selection() == Diffora.Selection.ROW
                        ? paths.stream().map(Diffora::row).toList()
                        : Collections.nCopies(paths.size(), ""),
                config.rho());
        for (int m = 0; m < chosen.length; m++) {
            Diffora layer = Objects.requireNonNull(layers.get(paths.get(m)));
            LOG.info("diffora: γ {} {} {}", "%.4f".formatted(gamma[m]), chosen[m] ? "own" : "-", paths.get(m));
            layer.gamma = gamma[m];
            if (!chosen[m]) {
                layer.own.named().values().forEach(p -> p.tensor().close());
                if (config.sharing()) {
                    layer.share(config, adapter.made().shared(), seed);
                } else {
                    adapter.made().adapters().remove(paths.get(m));
                }
            }
        }
    }

    /** γ of each module. */
    private double[] searched() {
        check(
                data.batches() >= 2,
                "diffora searches on one half of the batches and judges by the other, and there %s; give more data, a smaller batch, or rho 1",
                data.batches() == 1 ? "is 1" : "are none");
        Map<String, Parameter> weights = new LinkedHashMap<>(adapter.made().parameters());
        Map<String, Tensor> start = new LinkedHashMap<>();
        adapter.copies().forEach((key, copy) -> { // the head learns with them
            copy.swap(true);
            weights.put(key, copy.place);
        });
        try (Scope scope = Scope.open()) {
            weights.forEach((key, p) -> start.put(key, p.tensor().detach().clone()));
            Parameter theta = new Parameter(Tensor.zeros(DType.FLOAT32, layers.size()));
            int[] number = {0};
            adapter.sites().forEach(site -> {
                Diffora layer = Objects.requireNonNull(layers.get(site.path()));
                int m = number[0]++;
                site.layer().substitute((x, self) -> {
                    Tensor gate = theta.tensor().narrow(0, m, 1).sigmoid();
                    return layer.forward(x, new Base.Ground(self), gate);
                });
            });
            ModuleSearch search = new ModuleSearch(config.search(), theta, weights, new ModuleSearch.Losses() {
                @Override
                public Tensor train(long step) {
                    return data.loss(2 * (step % ((data.batches() + 1) / 2)));
                }

                @Override
                public Tensor validation(long step) {
                    return data.loss(2 * (step % (data.batches() / 2)) + 1);
                }
            });
            search.run();
            double[] gamma;
            try (Grad off = Grad.off()) {
                gamma = theta.tensor().sigmoid().doubles();
                start.forEach((key, value) -> {
                    if (config.restart() || adapter.copies().containsKey(key)) {
                        Objects.requireNonNull(weights.get(key)).tensor().copy_(value);
                    }
                });
                if (!config.restart()) {
                    int m = 0;
                    for (Diffora layer : layers.values()) {
                        layer.own.b.tensor().mul_(gamma[m++]);
                    }
                }
            }
            theta.tensor().close();
            return gamma;
        } finally {
            adapter.sites().forEach(site -> site.layer().substitute(null));
            adapter.copies().values().forEach(copy -> copy.swap(false));
        }
    }
}
