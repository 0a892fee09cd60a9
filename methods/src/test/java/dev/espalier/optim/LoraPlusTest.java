package dev.espalier.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.train.ParameterGroup;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

class LoraPlusTest {

    /** An adapted embedding, a norm and a head trained in full: the card's four groups. */
    @Test
    void fourGroupsWithTheirRatesAndDecays() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        model.attach(
                "default",
                AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4), Targets.of("embed_tokens", "layers.0.fc"))
                        .withModulesToSave(List.of("head", "layers.1.norm")),
                new Seed(0));
        List<ParameterGroup> groups = LoraPlus.groups(model, new LoraPlus.Config(8, 1e-4, 0.1), 2e-3);
        Map<String, String> found = groups.stream()
                .collect(Collectors.toMap(
                        ParameterGroup::name,
                        g -> "%.3f %.1f %s"
                                .formatted(
                                        g.lrFactor(),
                                        g.weightDecay(),
                                        g.parameters().keySet().stream()
                                                .map(k -> k.replace("base_model.model.", ""))
                                                .toList())));
        assertThat(found)
                .containsOnly(
                        Map.entry("lora_A", "1.000 0.1 [layers.0.fc.lora_A.weight, head.weight]"),
                        Map.entry(
                                "embedding",
                                "0.050 0.1 [embed_tokens.lora_embedding_A, embed_tokens.lora_embedding_B]"),
                        Map.entry("lora_B", "8.000 0.1 [layers.0.fc.lora_B.weight]"),
                        Map.entry(
                                "lora_B without decay",
                                "8.000 0.0 [layers.1.norm.weight, layers.1.norm.bias, head.bias]"));
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> new LoraPlus.Config(0.5, 1e-6, 0))
                .hasMessage("loraplus_lr_ratio must be at least 1 and finite, found 0.5; try 16");
        assertThatThrownBy(() -> new LoraPlus.Config(16, 0, 0))
                .hasMessage("loraplus_lr_embedding must be positive and finite, found 0.0; try 1e-6");
        assertThatThrownBy(() -> new LoraPlus.Config(16, 1e-6, -1))
                .hasMessage("loraplus_weight_decay must be at least 0 and finite, found -1.0; try 0");
    }
}
