package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class PeftFolderTest {

    @TempDir
    Path folder;

    private final Tiny net = new Tiny(DType.FLOAT32);
    private final AdaptedModel model = new AdaptedModel(net, net.heads());

    @BeforeEach
    void save() {
        AdapterContract.move(model.attach("default", spec(new Lora.Type()), new Seed(1)), 0.3);
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
    }

    private static AdapterSpec<Lora.Config> spec(AdapterType<Lora.Config> type) {
        return AdapterSpec.of(type, Lora.Config.of(2, 4), Targets.of("fc", "proj"));
    }

    private void load() {
        PeftFolder.load(model, folder, null, false);
    }

    private void edit(Consumer<Map<String, Object>> change) {
        Map<String, Object> config = PeftFolder.config(folder);
        change.accept(config);
        Json.write(folder.resolve("adapter_config.json"), config);
    }

    private void editTensors(Consumer<Map<String, Tensor>> change) {
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            try (TensorSource source = Safetensors.open(folder)) {
                source.tensors().keySet().forEach(key -> tensors.put(key, source.read(key)));
            }
            change.accept(tensors);
            Safetensors.write(folder.resolve("adapter_model.safetensors"), tensors);
        }
    }

    @Test
    void missingAndUnexpectedTensorsAreNamed() {
        editTensors(t -> {
            Tensor moved = t.remove("base_model.model.layers.0.fc.lora_A.weight");
            t.put("base_model.model.layers.7.fc.lora_A.weight", moved);
            t.put("base_model.model.layers.8.fc.lora_A.weight", moved);
        });
        assertThatThrownBy(this::load)
                .hasMessageEndingWith(
                        "was made for tiny and does not fit this network: it lacks base_model.model.layers.0.fc.lora_A.weight; nothing here takes base_model.model.layers.7.fc.lora_A.weight (and 1 more); use the base model it was trained on");
        assertThat(model.names()).isEmpty();
    }

    @Test
    void anotherBaseIsToldByItsShapes() {
        editTensors(t -> t.put("base_model.model.layers.0.fc.lora_A.weight", Tensor.zeros(DType.FLOAT32, 2, 9)));
        assertThatThrownBy(this::load)
                .hasMessageContaining(
                        "base_model.model.layers.0.fc.lora_A.weight is [2, 9] in the file and [2, 8] here");
    }

    @Test
    void settingsThatWouldChangeTheResultAreRefused() {
        edit(c -> c.put("use_qalora", true));
        assertThatThrownBy(this::load)
                .hasMessageContaining(
                        "use_qalora is true, which is not known here and would change what the adapter computes; only false can be read");
        edit(c -> c.put("use_qalora", false));
        edit(c -> c.put("use_new_thing", List.of(1)));
        assertThatThrownBy(this::load)
                .hasMessageContaining("use_new_thing is [1], which is not known here")
                .hasMessageContaining("a newer version may know it");
        edit(c -> c.put("use_new_thing", null));
        edit(c -> c.put("another_new_thing", Map.of()));
        load();
    }

    @Test
    void startsThatCannotBeRepeatedAreRefused() {
        edit(c -> c.put("init_lora_weights", "pissa_niter_4"));
        assertThatThrownBy(this::load).hasMessageContaining("random probes that nobody can repeat");
        edit(c -> c.put("init_lora_weights", "loftq"));
        assertThatThrownBy(this::load).hasMessageContaining("there is no method loftq");
        edit(c -> c.put("init_lora_weights", "eva")); // the network's weights are as they were
        load();
    }

    @Test
    void foldersWithoutAnAdapterSaySo() throws IOException {
        assertThatThrownBy(() -> PeftFolder.load(model, folder.resolve("nothing"), null, false))
                .hasMessageContaining("holds no adapter: there is no adapter_config.json");
        Files.delete(folder.resolve("adapter_model.safetensors"));
        Files.writeString(folder.resolve("adapter_model.bin"), "pickle");
        assertThatThrownBy(this::load).hasMessageContaining("a Python pickle that is never read");
        edit(c -> c.put("peft_type", "LOAR"));
        assertThatThrownBy(this::load)
                .hasMessageContaining("peft_type is LOAR, which is not read here; did you mean LORA?");
    }

    @Test
    void anAdapterIsCalledByItsFolder(@TempDir Path other) {
        model.attach("support", spec(new Lora.Type()), new Seed(1));
        assertThat(PeftFolder.save(model, "support", other, null, PeftFolder.Form.PLAIN, Map.of()))
                .isEqualTo(other.resolve("support"));
        model.remove("support");
        assertThat(PeftFolder.load(model, other, null, false).name()).isEqualTo("support");
        model.attach("sales", spec(new Lora.Type()), new Seed(1));
        PeftFolder.save(model, "sales", other, null, PeftFolder.Form.PLAIN, Map.of());
        assertThatThrownBy(() -> PeftFolder.load(model, other, "x", false))
                .hasMessageContaining("holds 2 adapters (sales, support); name the folder of one");
    }

    @Test
    void valuesThatAreNotFiniteAreNotSaved(@TempDir Path other) {
        Attached adapter = model.attach("default", spec(new Lora.Type()), new Seed(1));
        adapter.lowRank("layers.0.fc").b().tensor().detach().fill_(Double.NaN);
        assertThatThrownBy(() -> PeftFolder.save(model, "default", other, null, PeftFolder.Form.PLAIN, Map.of()))
                .hasMessageContaining("base_model.model.layers.0.fc.lora_B.weight holds values that are not finite");
        assertThat(other).isEmptyDirectory();
    }

    @Test
    void globsAreWrittenAsPathsThatPeftUnderstands(@TempDir Path other) {
        model.attach(
                "default",
                AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4), Targets.of("layers.*.fc")),
                new Seed(1));
        PeftFolder.save(model, "default", other, null, PeftFolder.Form.PLAIN, Map.of());
        assertThat(PeftFolder.config(other)).containsEntry("target_modules", List.of("layers.0.fc", "layers.1.fc"));
    }

    /** LoRA exactly; DoRA exactly at full rank and with the stated error below. */
    @Test
    void exportsToPlainLora(@TempDir Path other) {
        AdapterContract.move(model.attach("a", spec(new Lora.Type()), new Seed(1)), 0.3);
        Tensor lora = AdapterContract.run(net);
        assertThat(PeftFolder.exportLora(model, "a", other.resolve("lora"), null, 0, Map.of()))
                .hasSize(4)
                .allSatisfy(e -> assertThat(e.relativeError()).isZero());
        assertExported(other.resolve("lora"), lora, 1e-6);

        AdapterContract.move(model.attach("b", spec(new Dora.Type()), new Seed(1)), 0.3);
        Tensor dora = AdapterContract.run(net);
        assertThatThrownBy(() -> PeftFolder.exportLora(model, "b", other.resolve("dora"), null, 0, Map.of()))
                .hasMessageContaining(
                        "dora is not exactly a LoRA on layers.0.fc; say with which rank to approximate it");
        PeftFolder.exportLora(model, "b", other.resolve("dora"), null, 8, Map.of());
        assertExported(other.resolve("dora"), dora, 1e-5);

        try (Grad off = Grad.off()) {
            Tensor before = net.layers.get(0).fc.weight();
            Tensor delta = model.adapter("b")
                    .on("layers.0.fc", new Base.Ground(net.layers.get(0).fc))
                    .affine()
                    .weight()
                    .sub(before);
            PeftFolder.Exported report = PeftFolder.exportLora(model, "b", other.resolve("low"), null, 3, Map.of())
                    .get(0);
            assertThat(report.rank()).isEqualTo(3);
            Attached low = PeftFolder.load(model, other.resolve("low"), "low", false);
            double error =
                    low.exactFactors("layers.0.fc").product().sub(delta).norm().item()
                            / delta.norm().item();
            assertThat(report.relativeError()).isPositive().isCloseTo(error, within(1e-5));
        }
    }

    private void assertExported(Path path, Tensor expected, double tolerance) {
        Attached plain = PeftFolder.load(model, path, "exported", false);
        assertThat(AdapterContract.gap(AdapterContract.run(net), expected)
                        / expected.abs().max().item())
                .isLessThan(tolerance);
        model.remove(plain.name());
    }
}
