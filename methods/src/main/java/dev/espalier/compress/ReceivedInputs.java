package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Site;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** What the layers of one block receive on calibration data, while they compute with weights that are not the network's. */
final class ReceivedInputs implements AutoCloseable {

    /** Ends a pass when every layer of the block has received its input: what comes behind is of no interest. */
    private static final class Enough extends RuntimeException {
        private static final long serialVersionUID = 1;

        Enough() {
            super("all layers have received their input", null, false, false);
        }
    }

    private final Map<String, Covariance> byPath = new LinkedHashMap<>();
    private final Set<String> seen = new HashSet<>(); // in this pass
    private @Nullable Tensor last; // the input seen last: q, k, v receive the same
    private @Nullable Covariance lastCovariance;

    private ReceivedInputs() {}

    /**
     * Runs the data through the network.
     *
     * @param block layers, whose substitutes are put back afterwards
     * @param weights with which they compute meanwhile, W [out, in] by path
     * @param sequences how many batches of one example to use; all where there are fewer
     * @param decayed whether what came earlier weighs less, as in the authors' code
     */
    static ReceivedInputs of(
            List<Site> block, Map<String, Tensor> weights, Calibration data, int sequences, boolean decayed) {
        ReceivedInputs inputs = new ReceivedInputs();
        Map<Layer, Layer.@Nullable Substitute> former = new LinkedHashMap<>();
        long n = Math.min(sequences, data.batches());
        double decay = decayed ? n / (n + 1.0) : 1;
        try (Grad off = Grad.off();
                Scope all = Scope.open()) {
            for (Site site : block) {
                former.put(site.layer(), site.layer().substitute());
                Tensor given = java.util.Objects.requireNonNull(weights.get(site.path()));
                Tensor weight = given.to(site.layer().dtype())
                        .to(site.layer().weightParameter().tensor().device());
                site.layer().substitute((x, layer) -> {
                    inputs.add(site, x, decay, block.size());
                    Parameter bias = layer.biasParameter();
                    return x.linear(weight, bias == null ? null : bias.tensor());
                });
            }
            for (int i = 0; i < n; i++) {
                inputs.pass(data, i);
            }
        } catch (RuntimeException e) {
            inputs.close();
            throw e;
        } finally {
            former.forEach(Layer::substitute);
        }
        return inputs;
    }

    private void pass(Calibration data, int batch) {
        seen.clear();
        try (Scope scope = Scope.open()) {
            data.loss(batch);
        } catch (Enough e) {
            // what was wanted
        } finally {
            last = null;
            lastCovariance = null;
        }
    }

    private void add(Site site, Tensor x, double decay, int layers) {
        Covariance shared = lastCovariance;
        if (x == last && shared != null) {
            byPath.put(site.path(), shared);
        } else {
            Covariance own = byPath.computeIfAbsent(
                    site.path(), path -> new Covariance(site.layer().inFeatures()));
            try (Scope scope = Scope.open()) {
                own.add(x.reshape(-1, x.size(-1)).to(DType.FLOAT32).to(Device.CPU), decay);
            }
            last = x;
            lastCovariance = own;
        }
        seen.add(site.path());
        if (seen.size() == layers) {
            throw new Enough();
        }
    }

    /** Of a layer's inputs. */
    Covariance at(String path) {
        Covariance found = byPath.get(path);
        check(
                found != null,
                "%s receives nothing when the calibration data run through the network; exclude it (exclude_modules)",
                path);
        return java.util.Objects.requireNonNull(found);
    }

    @Override
    public void close() {
        new HashSet<>(byPath.values()).forEach(Covariance::close);
    }
}
