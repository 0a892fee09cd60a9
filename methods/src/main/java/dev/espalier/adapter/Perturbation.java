package dev.espalier.adapter;

import dev.espalier.EspalierException;
import dev.espalier.adapter.LoraGgpo.Config;
import dev.espalier.adapter.LoraGgpo.SigmaSchedule;
import dev.espalier.adapter.LoraGgpo.Variant;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * LoRA-GGPO's steps: moves the point that gradients are taken at before each, by noise or by the optimiser's moments, looks at the
 * gradients of the layers, and goes back to the point itself.
 *
 * @param layers by path
 * @param seed of the noise
 */
record Perturbation(Config config, Map<String, LoraGgpo> layers, Seed seed) implements Callback {

    @Override
    public void beforeStep(TrainingRun run, long step) {
        if (config.variant() == Variant.GGPO) {
            double share = config.schedule() == SigmaSchedule.CONSTANT
                    ? 1
                    : (1 - Math.cos(Math.PI * step / run.totalSteps())) / 2;
            layers.forEach((path, each) ->
                    each.shake(config.sigma() * share, seed.named(path).at(step)));
            return;
        }
        Map<String, Tensor> state = run.optimizer().state();
        layers.forEach((path, each) -> {
            Tensor ofA = moment(state, path, "lora_A.weight");
            Tensor ofB = moment(state, path, "lora_B.weight");
            if (ofA != null && ofB != null) {
                each.lookAhead(ofA, ofB);
            } else if (step > 1 && config.rho() > 0) {
                throw new EspalierException(
                        "mgpo moves along the optimiser's first moment, and it keeps none of %s; train with adamw, or sgd with momentum 0.9"
                                .formatted(path));
            }
        });
    }

    private static @Nullable Tensor moment(Map<String, Tensor> state, String path, String leaf) {
        String key = AdapterType.Made.key(path, leaf);
        return state.getOrDefault("exp_avg." + key, state.get("momentum_buffer." + key));
    }

    @Override
    public void afterBackward(StepContext step) {
        layers.values().forEach(LoraGgpo::observe);
    }

    @Override
    public void afterStep(StepContext step) {
        layers.values().forEach(LoraGgpo::settle);
    }

    @Override
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        layers.forEach((path, each) -> {
            if (each.gradients != null) {
                all.put("gradients." + path, each.gradients);
            }
        });
        return all;
    }

    @Override
    public void load(TrainingRun run, Map<String, Tensor> state) {
        layers.forEach((path, each) -> {
            Tensor saved = state.get("gradients." + path);
            if (saved != null) {
                each.remember(saved.clone());
            }
        });
    }
}
