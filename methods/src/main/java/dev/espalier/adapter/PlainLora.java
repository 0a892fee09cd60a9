package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** A plain LoRA whose factors were computed instead of trained: merged, repaired. */
public final class PlainLora {

    private PlainLora() {}

    /**
     * What it is made of.
     *
     * @param factors the change of each layer, by path
     * @param targets that mean these layers
     * @param modulesToSave modules that it brings its own version of
     * @param kept those versions, by key in the file
     * @param ensureWeightTying whether they hold for tied weights too
     */
    public record Parts(
            Map<String, LoraFactors> factors,
            Targets targets,
            List<String> modulesToSave,
            Map<String, Tensor> kept,
            boolean ensureWeightTying) {

        /** Copies the maps. */
        public Parts {
            factors = new LinkedHashMap<>(factors);
            modulesToSave = List.copyOf(modulesToSave);
            kept = new LinkedHashMap<>(kept);
        }

        /** Without tied weights. */
        public Parts(
                Map<String, LoraFactors> factors,
                Targets targets,
                List<String> modulesToSave,
                Map<String, Tensor> kept) {
            this(factors, targets, modulesToSave, kept, false);
        }

        /** The same for tied weights too. */
        public Parts tied() {
            return new Parts(factors, targets, modulesToSave, kept, true);
        }
    }

    /**
     * Attaches it and makes it the only active one.
     *
     * @throws dev.espalier.EspalierException if a version is of something that the adapter does not keep
     */
    public static Attached attach(AdaptedModel model, String name, Parts parts) {
        Lora.Type type = new Lora.Type();
        AdapterSpec<Lora.Config> spec = new AdapterSpec<>(
                type,
                Lora.Config.of(parts.factors()),
                parts.targets(),
                parts.modulesToSave(),
                AdapterSpec.Bias.NONE,
                parts.ensureWeightTying(),
                null,
                false); // ranks may be above the layer's width
        Attached made = model.attach(name, spec, new Seed(0));
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            parts.factors().forEach((path, f) -> {
                LowRank lora = made.lowRank(path);
                lora.a().tensor().copy_(f.a());
                lora.b().tensor().copy_(f.b().mul(f.scale() / lora.scale()));
                if (f.bias() != null) {
                    Tensor bias = Objects.requireNonNull(lora.parameters().get("lora_B.bias"), path)
                            .tensor();
                    bias.copy_(f.bias().mul(f.scale() / lora.scale()));
                }
            });
            Map<String, Tensor> places = made.kept();
            parts.kept().forEach((key, value) -> {
                Tensor place = places.get(key);
                check(place != null, "%s is kept by none of the modules %s", key, parts.modulesToSave());
                Objects.requireNonNull(place).copy_(value);
            });
            return made;
        } catch (RuntimeException e) {
            model.remove(name);
            throw e;
        }
    }
}
