package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.io.Fields;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Card(
        value = "vblora",
        checks = {2, 3}) // by the contract
class VbLoraTest extends AdapterContract {

    private static final VbLora.Type TYPE = new VbLora.Type();

    @Override
    protected AdapterSpec<?> spec() {
        return spec(VbLora.Config.of(3, 5, 2));
    }

    private static AdapterSpec<?> spec(VbLora.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out) / 2 * 5;
    }

    @Override
    protected long sharedParameters() {
        return 5 * 2;
    }

    /** Neither the paper nor PEFT starts at zero. */
    @Override
    protected boolean startsAtZero() {
        return false;
    }

    @Test
    @Card(value = "vblora", checks = 2)
    void itChangesTheLayerFromTheStart() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        new AdaptedModel(net, net.heads()).attach("default", spec(), new Seed(1));
        assertThat(gap(run(net), before)).isBetween(1e-6, 1e-1);
    }

    @Test
    @Card(value = "vblora", checks = 1)
    void countIsThatOfTheCard() {
        assertThat(CardCounts.of(TYPE, VbLora.Config.of(4, 8, 16))).isEqualTo(448);
    }

    /** Tile by tile in Java, for two layers of different widths on one bank. */
    @Test
    void tilesAreMixturesOfTheBank() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        move(adapter, 0.3);
        Parameter bank = adapter.made().shared().get("vblora_vector_bank");
        assertThat(bank.isTrainable()).isTrue();
        double[] v = bank.tensor().doubles(); // [5, 2]
        Map<String, Tensor> tensors = adapter.tensors();
        for (Site site : adapter.sites()) {
            LoraFactors factors = ((VbLora) adapter.at(site.path())).toLora();
            Tensor p = tensors.get(AdapterType.Made.key(site.path(), "vblora_logits_A")); // [3, in/2, 5]
            Tensor q = tensors.get(AdapterType.Made.key(site.path(), "vblora_logits_B")); // [out/2, 3, 5]
            for (int i = 0; i < 3; i++) {
                for (int t = 0; t < p.size(1); t++) {
                    double[] tile = mixture(p.select(0, i).select(0, t).doubles(), v);
                    assertThat(factors.a().select(0, i).narrow(0, 2 * t, 2).doubles())
                            .containsExactly(tile, org.assertj.core.api.Assertions.within(1e-14));
                }
                for (int t = 0; t < q.size(0); t++) {
                    double[] tile = mixture(q.select(0, t).select(0, i).doubles(), v);
                    assertThat(factors.b().select(1, i).narrow(0, 2 * t, 2).doubles())
                            .containsExactly(tile, org.assertj.core.api.Assertions.within(1e-14));
                }
            }
        }
    }

    private static double[] mixture(double[] logits, double[] bank) {
        List<Integer> top = IntStream.range(0, logits.length)
                .boxed()
                .sorted(Comparator.comparing(j -> -logits[j]))
                .limit(2)
                .toList();
        double sum = top.stream().mapToDouble(j -> Math.exp(logits[j])).sum();
        double[] mixture = new double[2];
        top.forEach(j -> {
            mixture[0] += Math.exp(logits[j]) / sum * bank[2 * j];
            mixture[1] += Math.exp(logits[j]) / sum * bank[2 * j + 1];
        });
        return mixture;
    }

    /** Away from ties, where the choice does not change; the bank's gradient as well. */
    @Test
    void gradientsEqualFiniteDifferences() {
        VbLora.Config config = new VbLora.Config(2, 4, 1, 2, false, 0, 0.5, 1);
        Gradients.check(layer -> {
            AdapterType.Made made = TYPE.create(config, List.of(new Site("x", layer)), new Seed(0));
            return new WithBank(made.adapters().get("x"), made.shared().get("vblora_vector_bank"));
        });
    }

    private record WithBank(Adapter adapter, Parameter bank) implements Adapter {
        @Override
        public Tensor forward(Tensor x, Base base) {
            return adapter.forward(x, base);
        }

        @Override
        public Map<String, Parameter> parameters() {
            Map<String, Parameter> all = new java.util.LinkedHashMap<>(adapter.parameters());
            all.put("bank", bank);
            return all;
        }
    }

    /** What is chosen is enough to compute with, in the smallest type that holds the indices, but not to train on. */
    @Test
    void filesOfWhatIsChosenGiveTheSameOutputs(@TempDir Path folder) {
        for (int vectors : new int[] {5, 256, 40000}) {
            for (int topk = 1; topk <= 3; topk++) {
                Tiny net = new Tiny(DType.FLOAT32);
                AdaptedModel model = new AdaptedModel(net, net.heads());
                VbLora.Config config =
                        VbLora.Config.of(1, vectors, 2).withTopk(topk).withSaveOnlyTopk(true);
                move(model.attach("default", spec(config), new Seed(1)), 0.3);
                Tensor adapted = run(net);
                PeftFolder.save(model, "default", folder, null, PeftFolder.Form.PLAIN, Map.of());
                model.remove("default");
                try (TensorSource file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
                    String key = AdapterType.Made.key("layers.0.fc", "vblora_logits_A_topk_indices");
                    assertThat(file.info(key).storedType())
                            .isEqualTo(vectors == 5 ? "U8" : vectors == 256 ? "I16" : "I32");
                    assertThat(file.info(key).dims()).containsExactly(1, 4, topk);
                }
                PeftFolder.load(model, folder, null, true);
                assertThat(gap(run(net), adapted)).isLessThan(1e-5);
                net.train(true);
                assertThatThrownBy(() -> net.forward(Tiny.ids())).hasMessageContaining("cannot be trained on");
            }
        }
    }

    @Test
    void itIsExactlyALora(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        Tensor adapted = run(net);
        assertThat(PeftFolder.exportLora(model, "default", folder, null, 0, Map.of()))
                .allSatisfy(layer -> assertThat(layer.rank()).isEqualTo(3));
        model.remove("default");
        PeftFolder.load(model, folder, null, false);
        assertThat(gap(run(net), adapted)).isLessThan(1e-5);
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> TYPE.read(Fields.of("", Map.of("topk", 9, "num_vectors", 4))))
                .hasMessage("topk must lie in 1 to num_vectors = 4, found 9; try 2");
        assertThatThrownBy(() -> TYPE.read(Fields.of("", Map.of("init_vector_bank_bound", 0))))
                .hasMessageStartingWith("init_vector_bank_bound must be above 0");
        Tiny net = new Tiny(DType.FLOAT32);
        assertThatThrownBy(() -> new AdaptedModel(net, net.heads())
                        .attach("default", spec(VbLora.Config.of(2, 4, 4)), new Seed(1)))
                .hasMessage(
                        "vector_length is 4, which does not divide the widths of layers.0.fc [10, 8]; try 2, or leave"
                                + " the layer out");
    }
}
