package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.model.Input;
import dev.espalier.model.Pretrained;
import dev.espalier.nn.Parameter;
import dev.espalier.optim.LoraPlus;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Eight steps of AdamW from PEFT's start give PEFT's losses, gradient norms and final adapter. */
class PeftStepsTest {

    @ParameterizedTest
    @ValueSource(
            strings = {
                "llama-lora",
                "llama-rslora",
                "llama-dora",
                "llama-pissa",
                "llama-olora",
                "llama-loraplus",
                "gpt2-lora",
                "gpt2-dora",
                "bert-lora"
            })
    void lossesEqualPefts(String name) {
        Path folder = PeftFixtures.root("steps").resolve(name);
        Fields record = Fields.of(name, Json.read(folder.resolve("steps.json")));
        Fields adamw = record.fields("optimizer");
        double rate = adamw.number("lr");
        try (Pretrained base = PeftFixtures.base(record.string("base"));
                AdaptedModel model = PeftFixtures.adapted(base);
                TensorSource batches = Safetensors.open(folder.resolve("batches.safetensors"));
                Scope all = Scope.open()) {
            PeftFolder.load(model, folder.resolve("initial"), "default", true);
            AdamW.Config config = new AdamW.Config(0.9, 0.999, 1e-8, adamw.number("weight_decay"));
            Map<String, Parameter> trained = model.trainableParameters();
            List<ParameterGroup> groups = record.has("loraplus")
                    ? new LoraPlus().groups(model, record.fields("loraplus"), rate)
                    : List.of(new ParameterGroup("all", trained, 1, config.weightDecay()));
            base.model().train(true);
            try (Optimizer optimizer = config.create(groups)) {
                for (int i = 0; i < 8; i++) {
                    try (Scope step = Scope.open()) {
                        Tensor loss = loss(base, batches, i);
                        loss.backward();
                        double norm = clip(trained, record.number("clip"));
                        optimizer.step(rate);
                        optimizer.zeroGrad();
                        double expected = record.numbers("losses", List.of()).get(i);
                        assertThat(loss.item()).as("loss %d", i).isCloseTo(expected, within(1e-4 * expected));
                        double expectedNorm =
                                record.numbers("grad_norms", List.of()).get(i);
                        assertThat(norm).as("norm %d", i).isCloseTo(expectedNorm, within(1e-4 * expectedNorm));
                    }
                }
                try (TensorSource last = Safetensors.open(folder.resolve("final"))) {
                    trained.forEach((key, p) -> assertThat(PeftFixtures.gap(p.tensor(), last.read(key)))
                            .as(key)
                            .isLessThan(1e-4));
                }
            }
        }
    }

    /** PEFT's own groups: the same rates and decays for the same tensors. */
    @Test
    void loraPlusGroupsEqualPefts() {
        Path folder = PeftFixtures.root("steps").resolve("llama-loraplus");
        Fields record = Fields.of("steps.json", Json.read(folder.resolve("steps.json")));
        try (Pretrained base = PeftFixtures.base("llama");
                AdaptedModel model = PeftFixtures.adapted(base)) {
            PeftFolder.load(model, folder.resolve("initial"), "default", true);
            Map<String, String> ours = new TreeMap<>();
            for (ParameterGroup g : new LoraPlus().groups(model, record.fields("loraplus"), 5e-3)) {
                g.parameters()
                        .keySet()
                        .forEach(key -> ours.put(key, "%.6f %.6f".formatted(g.lrFactor() * 5e-3, g.weightDecay())));
            }
            Map<String, String> theirs = new TreeMap<>();
            for (Fields g : record.fieldsList("groups")) {
                g.strings("parameters", List.of())
                        .forEach(key ->
                                theirs.put(key, "%.6f %.6f".formatted(g.number("lr"), g.number("weight_decay"))));
            }
            assertThat(ours).isEqualTo(theirs);
        }
    }

    private static Tensor loss(Pretrained base, TensorSource batches, int step) {
        Tensor ids = batches.read("input_ids").select(0, step);
        Tensor logits = base.model()
                .forward(Input.of(ids, batches.read("attention_mask").select(0, step)));
        Tensor labels = batches.read("labels").select(0, step);
        if (logits.dim() == 3) { // labels stand at their own token, which the state before predicts
            long tokens = ids.size(1);
            logits = logits.narrow(1, 0, tokens - 1).reshape(-1, logits.size(2));
            labels = labels.narrow(1, 1, tokens - 1).reshape(-1);
        }
        return logits.crossEntropy(labels, null, 0, Tensor.Reduction.MEAN);
    }

    /** As torch.nn.utils.clip_grad_norm_. */
    private static double clip(Map<String, Parameter> parameters, double limit) {
        try (Grad off = Grad.off()) {
            double sum = 0;
            for (Parameter p : parameters.values()) {
                double norm = p.tensor().grad().norm().item();
                sum += norm * norm;
            }
            double norm = Math.sqrt(sum);
            double factor = Math.min(1, limit / (norm + 1e-6));
            parameters.values().forEach(p -> p.tensor().grad().mul_(factor));
            return norm;
        }
    }
}
