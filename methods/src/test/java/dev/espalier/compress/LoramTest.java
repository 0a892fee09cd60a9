package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.MaskedLora;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.model.Inner;
import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class LoramTest {

    private static final Seed SEED = new Seed(4);

    @TempDir
    private Path folder;

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    @Test
    @Card(value = "loram", checks = 1)
    void withNothingLeftOutItIsLora() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        List<Map<String, Tensor>> factors = new ArrayList<>();
        for (int kind = 0; kind < 2; kind++) {
            try (TinyLlama llama = TinyLlama.open(base);
                    AdaptedModel model = llama.adapted()) {
                if (kind == 0) {
                    CompressionReport report = compress(model, llama.calibration(4, 0), "ratio", 0);
                    assertThat(report.rows())
                            .allSatisfy(row -> assertThat(row.before()).isZero());
                }
                attach(model, 4);
                llama.train(model.trainableParameters().values(), 4, 1e-2, 3, 1);
                factors.add(copies(model));
            }
        }
        assertThat(factors.get(0).keySet()).isEqualTo(factors.get(1).keySet());
        factors.get(0)
                .forEach((key, t) -> assertThat(
                                t.equal(Objects.requireNonNull(factors.get(1).get(key))))
                        .as(key)
                        .isTrue());
    }

    /** Slicing what was scattered gives the very factors; their product keeps its norm. */
    @Test
    @Card(value = "loram", checks = 2)
    void whatIsScatteredIsZeroElsewhere() {
        try (Pretrained small = network("llama");
                AdaptedModel model = AdaptedModel.of(small.model())) {
            Cut cut = cut(compress(model, Calibration.NONE, "pruning", "random", "ratio", 0.5));
            attach(model, 3);
            randomize(model);
            for (Site site : model.adapter("default").sites()) {
                LoraFactors f = Objects.requireNonNull(model.adapter("default").exactFactors(site.path()));
                LoraFactors whole = cut.scatter(site.path(), f);
                Layer layer = site.layer();
                Tensor rows = kept(cut, site.path(), true, layer.outFeatures());
                Tensor columns = kept(cut, site.path(), false, layer.inFeatures());
                assertThat(whole.b().indexSelect(0, rows).equal(f.b())).isTrue();
                assertThat(whole.a().indexSelect(1, columns).equal(f.a())).isTrue();
                assertThat(nonZero(whole.a())).isEqualTo(nonZero(f.a()));
                assertThat(nonZero(whole.b())).isEqualTo(nonZero(f.b()));
                assertThat(whole.product().norm().item())
                        .isCloseTo(f.product().norm().item(), within(1e-5 * f.norm()));
            }
        }
    }

    /** And the gradients of the factors are slices of the whole ones' in that network. */
    @ParameterizedTest
    @CsvSource({"llama, mlp", "llama, self_attn", "llama, ''", "llama-tied, ''", "bert, ''"})
    @Card(
            value = "loram",
            checks = {3, 4})
    void aSmallerNetworkIsTheWholeOneWithZeros(String base, String only) {
        try (Pretrained small = network(base);
                Pretrained whole = network(base);
                AdaptedModel model = AdaptedModel.of(small.model());
                AdaptedModel other = AdaptedModel.of(whole.model())) {
            List<Cut.Group> groups = new ArrayList<>();
            small.model().backbone().layers().stream()
                    .flatMap(block -> block.inner().stream())
                    .filter(group -> group.path().contains(only))
                    .forEach(group -> {
                        List<Integer> kept = group.units() == 2
                                ? List.of(1)
                                : java.util.stream.IntStream.range(0, group.units())
                                        .filter(i -> i % 3 != 1)
                                        .boxed()
                                        .toList();
                        groups.add(Cut.Group.of(group, kept));
                        group.keep(kept);
                    });
            Cut cut = new Cut("base", "sum", groups);
            zero(whole.model(), cut);
            attach(model, 2);
            randomize(model);
            export(model, cut, folder.resolve("adapter"));
            PeftFolder.load(other, folder.resolve("adapter"), "default", true);
            Tensor ids = Tensor.of(new long[] {3, 7, 1, 12, 5, 9, 2, 30, 11, 4}, 2, 5);
            Tensor logits = small.model().forward(Input.of(ids));
            Tensor expected = whole.model().forward(Input.of(ids));
            assertThat(logits.sub(expected).abs().max().item()).isLessThan(1e-5);

            logits.square().sum().backward();
            expected.square().sum().backward();
            double largest = 0;
            for (Site site : model.adapter("default").sites()) {
                LowRank mine = model.adapter("default").lowRank(site.path());
                LowRank theirs = other.adapter("default").lowRank(site.path());
                Tensor a = gradient(theirs.a())
                        .indexSelect(1, kept(cut, site.path(), false, theirs.a().shape()[1]));
                Tensor b = gradient(theirs.b())
                        .indexSelect(0, kept(cut, site.path(), true, theirs.b().shape()[0]));
                double size = Math.max(1, gradient(mine.a()).abs().max().item());
                largest = Math.max(largest, size);
                assertThat(gradient(mine.a()).sub(a).abs().max().item()).isLessThan(1e-5 * size);
                size = Math.max(1, gradient(mine.b()).abs().max().item());
                assertThat(gradient(mine.b()).sub(b).abs().max().item()).isLessThan(1e-5 * size);
            }
            assertThat(largest).isGreaterThan(1e-3);
        }
    }

    @Test
    @Card(value = "loram", checks = 5)
    void anUntrainedAdapterLeavesTheWholeModelAsItIs() {
        try (Pretrained small = network("llama");
                Pretrained whole = network("llama");
                AdaptedModel model = AdaptedModel.of(small.model());
                AdaptedModel other = AdaptedModel.of(whole.model())) {
            Cut cut = cut(compress(model, Calibration.NONE, "pruning", "random", "ratio", 0.5));
            attach(model, 2);
            export(model, cut, folder.resolve("adapter"));
            Tensor before = logits(whole.model());
            PeftFolder.load(other, folder.resolve("adapter"), "default", false);
            assertThat(logits(whole.model()).equal(before)).isTrue();
        }
    }

    /** The sizes that the paper publishes. */
    @ParameterizedTest
    @CsvSource({
        "32000, 5120, 40, 40, 40, 13824, 0.65, 6005662720",
        "32000, 8192, 80, 64, 8, 28672, 0.65, 28099436544",
        "32000, 8192, 80, 64, 8, 28672, 0.75, 21488738304",
        "32000, 8192, 80, 64, 8, 28672, 0.85, 16272924672",
        "32000, 8192, 80, 64, 8, 28672, 0.95, 9662226432",
        "128256, 8192, 80, 64, 8, 28672, 0.85, 17849982976"
    })
    @Card(value = "loram", checks = 6)
    void countsAreTheAuthors(
            long words, long width, int blocks, int heads, int keys, int inner, double ratio, long expected) {
        long head = width / heads;
        long pruned = block(
                width,
                (long) Loram.kept(ratio, keys, keys < heads) * heads / keys * head,
                Loram.kept(ratio, keys, keys < heads) * head,
                Loram.kept(ratio, inner, false));
        long dense = block(width, width, keys * head, inner);
        assertThat((blocks - 6) * pruned + 6 * dense + 2 * words * width + width)
                .isEqualTo(expected);
        assertThat(Loram.kept(0.9, 100, false)).isEqualTo(10); // 9.99.. in floating point
    }

    private static long block(long width, long queries, long keys, long inner) {
        return 2 * width * queries + 2 * width * keys + 3 * width * inner + 2 * width;
    }

    @Test
    @Card(value = "loram", checks = 7)
    void recoveredItIsAnOrdinaryLora() {
        try (Pretrained small = network("llama");
                Pretrained whole = network("llama");
                AdaptedModel model = AdaptedModel.of(small.model());
                AdaptedModel other = AdaptedModel.of(whole.model())) {
            Cut cut = cut(compress(model, Calibration.NONE, "pruning", "random", "ratio", 0.5));
            attach(model, 2);
            randomize(model);
            export(model, cut, folder.resolve("adapter"));
            assertThat(PeftFolder.config(folder.resolve("adapter")))
                    .containsEntry("peft_type", "LORA")
                    .containsEntry("base_model_name_or_path", "whole");
            PeftFolder.load(other, folder.resolve("adapter"), "default", false);
            Tensor unmerged = logits(whole.model());
            other.merge();
            assertThat(logits(whole.model()).allclose(unmerged, 1e-4, 1e-5)).isTrue();
        }
    }

    /**
     * The whole model with the recovered adapter against the small one with the adapter and the whole one without; and after the
     * small one was aligned on what the whole one knows. Mean of two seeds.
     */
    @Test
    @Card(value = "loram", checks = 8)
    void trainedSmallItHelpsTheWholeModel() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        double[] small = new double[2];
        double[] whole = new double[2];
        double untouched = 0;
        for (int aligned = 0; aligned < 2; aligned++) {
            for (int seed = 0; seed < 2; seed++) {
                try (TinyLlama pruned = TinyLlama.open(base);
                        TinyLlama full = TinyLlama.open(base);
                        AdaptedModel model = pruned.adapted();
                        AdaptedModel other = full.adapted()) {
                    Cut cut = cut(
                            compress(model, pruned.calibration(32, 0), "ratio", 0.6, "dense_last", 1, "sequences", 32));
                    if (aligned == 1) {
                        pruned.parameters().values().forEach(p -> p.trainable(true));
                        pruned.train(pruned.parameters().values(), 20, 2e-3, 0, 50);
                        pruned.parameters().values().forEach(p -> p.trainable(false));
                    }
                    model.attach(
                            "default",
                            AdapterSpec.of(new Lora.Type(), Lora.Config.of(1, 2), Targets.of("q_proj", "v_proj")),
                            new Seed(seed));
                    small[aligned] += pruned.train(model.trainableParameters().values(), 20, 5e-3, 3, 60 + seed) / 2;
                    Path out = folder.resolve("adapter" + aligned + seed);
                    export(model, cut, out);
                    untouched = full.heldOut(3);
                    PeftFolder.load(other, out, "default", false);
                    whole[aligned] += full.heldOut(3) / 2;
                }
            }
        }
        assertThat(whole[0]).isLessThan(small[0]).isLessThan(untouched);
        assertThat(whole[1]).isLessThan(whole[0]);
    }

    /** Recovery by the authors' script, with our list of kept units in place of its list of pruned channels. */
    @Test
    void scatteringIsTheAuthors() throws URISyntaxException {
        try (TensorSource golden = golden();
                Pretrained network = network("llama")) {
            List<Cut.Group> groups = network.model().backbone().layers().get(0).inner().stream()
                    .map(inner -> Cut.Group.of(inner, integers(golden.read("kept." + last(inner.path())))))
                    .toList();
            Cut cut = new Cut("base", "sum", groups);
            int compared = 0;
            for (String key : golden.tensors().keySet()) {
                if (!key.startsWith("pruned.") || !key.endsWith("lora_A.weight")) {
                    continue;
                }
                String path = key.replace("pruned.base_model.model.", "").replace(".lora_A.weight", "");
                String b = key.replace("lora_A", "lora_B");
                LoraFactors whole = cut.scatter(path, new LoraFactors(golden.read(key), golden.read(b), 1, null));
                assertThat(whole.a().equal(golden.read(key.replace("pruned.", "recovered."))))
                        .as(path)
                        .isTrue();
                assertThat(whole.b().equal(golden.read(b.replace("pruned.", "recovered."))))
                        .as(path)
                        .isTrue();
                compared++;
            }
            assertThat(compared).isEqualTo(7);
        }
    }

    @Test
    void masksAreThoseOfSparseGpt() throws URISyntaxException {
        try (TensorSource golden = golden()) {
            Tensor w = golden.read("weight");
            Tensor x = golden.read("inputs");
            Tensor c = x.t().matmul(x);
            Tensor unstructured = SparseGpt.mask(w, c, 0.55, 0, 0);
            Tensor semi = SparseGpt.mask(w, c, 0, 4, 8);
            assertThat(unstructured.to(DType.UINT8).equal(golden.read("stays.unstructured")))
                    .isTrue();
            assertThat(semi.to(DType.UINT8).equal(golden.read("stays.semi"))).isTrue();
            assertThat(semi.to(DType.FLOAT32).view(-1, 8).sum(1, false).eq(4).all())
                    .isTrue();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"semi", "unstructured"})
    void maskedWeightsKeepTheirPlacesAndValues(String pruning) {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base);
                TinyLlama original = TinyLlama.open(base);
                AdaptedModel model = llama.adapted()) {
            CompressionReport report = compress(model, llama.calibration(16, 0), "pruning", pruning);
            assertThat(report.kept()).isEmpty();
            double share = 0;
            for (CompressionReport.Row row : report.rows()) {
                Tensor w = ((Layer) llama.lm().module(row.path())).weight();
                Tensor former = ((Layer) original.lm().module(row.path())).weight();
                Tensor stays = w.ne(0);
                assertThat(Tensor.where(stays, former, w).equal(w)).isTrue();
                share += (double) nonZero(w) / w.numel() / report.rows().size();
            }
            assertThat(share).isCloseTo(pruning.equals("semi") ? 0.5 : 0.45, within(2e-3));
        }
    }

    /** M is where the pruned weight is not zero: the recovered change is s (B A) ∘ M. */
    @Test
    void maskedAdaptersLearnInTheirPlacesAlone() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base);
                AdaptedModel model = llama.adapted()) {
            compress(model, llama.calibration(16, 0), "pruning", "semi");
            model.attach(
                    "default",
                    AdapterSpec.of(new MaskedLora.Type(), new MaskedLora.Config(4, 8, 0), Targets.ALL),
                    new Seed(3));
            double before = llama.heldOut(3);
            assertThat(llama.train(model.trainableParameters().values(), 10, 5e-3, 3, 1))
                    .isLessThan(before);
            model.merge();
            Tensor w = ((Layer) llama.lm().module("model.layers.1.mlp.up_proj")).weight();
            assertThat(nonZero(w)).isEqualTo(w.numel() / 2);
        }
    }

    /** Of random weights that leaves more of what layers put out than dropping the smallest. */
    @Test
    void theLeastImportantChannelsGo() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        double[] losses = new double[2];
        for (int kind = 0; kind < 2; kind++) {
            try (TinyLlama llama = TinyLlama.open(base);
                    AdaptedModel model = llama.adapted()) {
                compress(model, llama.calibration(32, 0), "pruning", kind == 0 ? "structured" : "random", "ratio", 0.3);
                losses[kind] = llama.heldOut(0);
            }
        }
        assertThat(losses[0]).isLessThan(losses[1]);
    }

    /** Σ |w g| by gradients of the whole loss, for one channel and one key head. */
    @Test
    void salienceIsTheSumOverAllOfAUnit() {
        Path base = TinyLlama.trained(folder.resolve("base"));
        try (TinyLlama llama = TinyLlama.open(base)) {
            Calibration data = llama.calibration(3, 0);
            List<Inner> groups = llama.lm().backbone().layers().get(1).inner();
            List<Tensor> scores = Salience.of(groups, data, 3);
            llama.parameters().values().forEach(p -> p.trainable(true));
            for (int i = 0; i < 3; i++) {
                data.loss(i).div(3).backward();
            }
            String block = "model.layers.1.";
            double channel = share(llama, block + "mlp.gate_proj", 0, 5, 1)
                    + share(llama, block + "mlp.up_proj", 0, 5, 1)
                    + share(llama, block + "mlp.down_proj", 1, 5, 1);
            assertThat(scores.get(1).select(0, 5).item()).isCloseTo(channel, within(1e-5 * channel));
            double head = share(llama, block + "self_attn.q_proj", 0, 16, 16)
                    + share(llama, block + "self_attn.k_proj", 0, 8, 8)
                    + share(llama, block + "self_attn.v_proj", 0, 8, 8)
                    + share(llama, block + "self_attn.o_proj", 1, 16, 16);
            assertThat(scores.get(0).select(0, 1).item()).isCloseTo(head, within(1e-5 * head));
        }
    }

    private static double share(TinyLlama llama, String path, int dim, int from, int width) {
        Parameter p = Objects.requireNonNull(llama.parameters().get(path + ".weight"));
        return p.tensor().mul(gradient(p)).abs().narrow(dim, from, width).sum().item();
    }

    /** Written, read back, cut again, quantised: what was kept is told in units of the model it began with. */
    @Test
    void aFolderOfTheSmallModelIsAModelThatRemembers() {
        try (Pretrained small = network("bert");
                AdaptedModel model = AdaptedModel.of(small.model())) {
            Cut first = cut(compress(model, Calibration.NONE, "pruning", "random", "ratio", 0.5));
            Tensor before = logits(small.model());
            Models.save(small, folder.resolve("small"), Map.of(Models.CUT, first.text()));
            Map<String, Object> config = Json.read(folder.resolve("small/config.json"));
            assertThat(config).containsKeys("head_dim", "intermediate_size", "num_attention_heads");
            try (Pretrained read = Models.load(folder.resolve("small"), Purpose.classification(), TinyLlama.FP32);
                    AdaptedModel again = AdaptedModel.of(read.model())) {
                assertThat(logits(read.model()).equal(before)).isTrue();
                Cut found = Objects.requireNonNull(Cut.find(read));
                assertThat(found).isEqualTo(first);
                CompressionReport report = compress(
                        again, Calibration.NONE, "pruning", "random", "ratio", 0.5, "four_bit", true, "dense_first", 1);
                assertThat(report.codedBy()).isEqualTo("loram");
                assertThat(report.bits()).isLessThan(5);
                Cut second = found.then(Objects.requireNonNull(report.kept()));
                assertThat(second.base()).isEqualTo("whole");
                for (Cut.Group group : second.groups()) {
                    Cut.Group former = first.groups().stream()
                            .filter(g -> g.path().equals(group.path()))
                            .findFirst()
                            .orElseThrow();
                    assertThat(group.units()).isEqualTo(former.units());
                    assertThat(former.kept()).containsAll(group.kept());
                }
            }
        }
    }

    /** The codes decode to what the network holds: the 16 levels of each block. */
    @Test
    void fourBitsHoldWhatIsLeft() {
        try (Pretrained small = network("llama");
                AdaptedModel model = AdaptedModel.of(small.model())) {
            CompressionReport report =
                    compress(model, Calibration.NONE, "pruning", "random", "ratio", 0.5, "four_bit", true);
            Safetensors.write(folder.resolve("codes.safetensors"), report.codes());
            try (TensorSource codes = Safetensors.open(folder.resolve("codes.safetensors"))) {
                for (CompressionReport.Row row : report.rows()) {
                    Tensor w = ((Layer) small.model().module(row.path())).weight();
                    assertThat(new Loram().decode(codes, row.path()).equal(w)).isTrue();
                    assertThat(row.before()).isBetween(0.3, 1.0);
                }
            }
        }
    }

    @Test
    void badSettingsAreRefused() {
        assertThatThrownBy(() -> config("ratio", 1.0)).hasMessage("ratio must lie in [0, 1), found 1.0; try 0.65");
        assertThatThrownBy(() -> config("ratio", Double.NaN)).hasMessageStartingWith("ratio must lie in [0, 1)");
        assertThatThrownBy(() -> config("pattern", List.of(8, 8))).hasMessageContaining("found [8, 8]; try [4, 8]");
        assertThatThrownBy(() -> config("sequences", 0)).hasMessage("sequences must be at least 1, found 0; try 64");
        assertThatThrownBy(() -> config("dense_first", -1))
                .hasMessage("dense_first must be at least 0, found -1; try 4");
        assertThatThrownBy(() -> config("dense_last", -1)).hasMessageStartingWith("dense_last must be at least 0");
        assertThatThrownBy(() -> config("pruning", "semi", "ratio", 0.5))
                .hasMessageStartingWith("ratio has no meaning for semi-structured pruning");
        assertThat(config("pruning", "unstructured").ratio()).isEqualTo(0.55);
        try (Pretrained bert = network("bert");
                Pretrained gpt2 = network("gpt2");
                AdaptedModel model = AdaptedModel.of(bert.model());
                AdaptedModel other = AdaptedModel.of(gpt2.model())) {
            assertThatThrownBy(() -> compress(model, Calibration.NONE, "pruning", "random", "ratio", 0.8))
                    .hasMessage(
                            "ratio 0.8 leaves nothing of the 4 units of bert.encoder.layer.0.attention.self; a ratio up to 0.75 leaves one");
            assertThatThrownBy(() -> compress(model, Calibration.NONE, "dense_first", 4, "dense_last", 2))
                    .hasMessage(
                            "dense_first 4 and dense_last 2 leave none of the 2 blocks to be pruned; set them to 0 and 0");
            assertThatThrownBy(() -> compress(model, Calibration.NONE, "ratio", 0.5))
                    .hasMessageContaining("there are none");
            assertThatThrownBy(() -> compress(model, Calibration.NONE, "pruning", "semi", "pattern", List.of(2, 64)))
                    .hasMessageContaining("there are none");
            assertThatThrownBy(() -> compress(other, Calibration.NONE, "ratio", 0.5))
                    .hasMessage("the blocks of gpt2 cannot be made smaller; set pruning to semi or unstructured");
            assertThat(bert.model().parameterCount()).isEqualTo(parameters("bert"));
        }
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted()) {
            assertThatThrownBy(() -> compress(model, lm.calibration(2)))
                    .hasMessageStartingWith("loram prunes the blocks of a transformer");
        }
        assertThatThrownBy(() -> new Cut.Group("mlp", 4, List.of(2, 1), List.of()))
                .hasMessage("mlp: of units 0 to 3 there are kept [2, 1]; each must be named once, in rising order");
    }

    private static long parameters(String base) {
        try (Pretrained fresh = network(base)) {
            return fresh.model().parameterCount();
        }
    }

    private static CompressionReport compress(AdaptedModel model, Calibration data, Object... settings) {
        Map<String, Object> all = new LinkedHashMap<>(Map.of("dense_first", 0, "dense_last", 0));
        for (int i = 0; i < settings.length; i += 2) {
            all.put((String) settings[i], settings[i + 1]);
        }
        List<String> heads = model.network() instanceof Model m
                ? m.heads().stream().map(Layer::path).toList()
                : List.of();
        return new Loram()
                .compress(new Loram().read(Fields.of("test", all)), new Compressor.Subject(model, heads, data, SEED));
    }

    private static Loram.Config config(Object... settings) {
        Map<String, Object> all = new LinkedHashMap<>();
        for (int i = 0; i < settings.length; i += 2) {
            all.put((String) settings[i], settings[i + 1]);
        }
        return new Loram().read(Fields.of("test", all));
    }

    private static Cut cut(CompressionReport report) {
        return new Cut("whole", "sum", Objects.requireNonNull(report.kept()));
    }

    private static Pretrained network(String name) {
        try {
            Path bases = Path.of(Objects.requireNonNull(LoramTest.class.getResource("/golden/peft/bases"))
                    .toURI());
            Purpose purpose = name.equals("bert") ? Purpose.classification() : Purpose.causalLm();
            return Models.load(bases.resolve(name), purpose, TinyLlama.FP32);
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    private static TensorSource golden() throws URISyntaxException {
        return Safetensors.open(
                Path.of(Objects.requireNonNull(LoramTest.class.getResource("/golden/compress/loram.safetensors"))
                        .toURI()));
    }

    private static String last(String path) {
        return path.substring(path.lastIndexOf('.') + 1);
    }

    private static List<Integer> integers(Tensor t) {
        return java.util.Arrays.stream(t.longs()).mapToObj(Math::toIntExact).toList();
    }

    private static void attach(AdaptedModel model, int r) {
        model.attach("default", AdapterSpec.of(new Lora.Type(), Lora.Config.of(r, 2.0 * r), Targets.ALL), new Seed(3));
    }

    private static void randomize(AdaptedModel model) {
        try (Generator g = new Seed(12).generator();
                Grad off = Grad.off()) {
            model.trainableParameters().values().forEach(p -> p.tensor().copy_(g.normal(0, 0.3, p.shape())));
        }
    }

    private static void export(AdaptedModel model, Cut cut, Path out) {
        PeftFolder.exportLora(model, "default", out, PeftFolder.Info.of(cut.base(), null), 0, Map.of(), cut::scatter);
    }

    private static Map<String, Tensor> copies(AdaptedModel model) {
        Map<String, Tensor> copies = new LinkedHashMap<>();
        model.trainableParameters()
                .forEach((key, p) -> copies.put(key, p.tensor().detach().clone()));
        return copies;
    }

    private static Tensor gradient(Parameter p) {
        return Objects.requireNonNull(p.tensor().grad());
    }

    private static long nonZero(Tensor t) {
        return (long) t.ne(0).sum().item();
    }

    private static Tensor logits(Model model) {
        try (Grad off = Grad.off()) {
            return model.forward(Input.of(Tensor.of(new long[] {3, 7, 1, 12, 5, 9}, 2, 3)));
        }
    }

    /** Places of kept outputs or inputs of a layer that has so many. */
    private static Tensor kept(Cut cut, String path, boolean outputs, long all) {
        for (Cut.Group group : cut.groups()) {
            for (Cut.Part part : group.parts()) {
                if (part.layer().equals(path) && part.outputs() == outputs) {
                    return Inner.channels(group.kept(), part.width());
                }
            }
        }
        return Tensor.arange(all);
    }

    /** Zeroes all that a cut leaves out, biases included. */
    private static void zero(Model model, Cut cut) {
        for (Cut.Group group : cut.groups()) {
            for (Cut.Part part : group.parts()) {
                Layer layer = (Layer) model.module(part.layer());
                for (int unit = 0; unit < group.units(); unit++) {
                    if (!group.kept().contains(unit)) {
                        long from = (long) unit * part.width();
                        layer.weight()
                                .narrow(part.outputs() ? 0 : 1, from, part.width())
                                .zero_();
                        if (part.outputs() && layer.biasParameter() != null) {
                            layer.biasParameter()
                                    .tensor()
                                    .narrow(0, from, part.width())
                                    .zero_();
                        }
                    }
                }
            }
        }
    }
}
