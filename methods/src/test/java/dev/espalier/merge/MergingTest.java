package dev.espalier.merge;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Dora;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.init.Olora;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Merging adapters on a network: linear layers, GPT-2's transposed ones, embeddings, heads. */
class MergingTest {

    private static final Targets FC = Targets.of("fc");
    private static final Targets ALL = Targets.of("fc", "proj", "embed_tokens");

    @TempDir
    private Path folder;

    private Scope scope;
    private Tiny net;
    private AdaptedModel model;

    @BeforeEach
    void open() {
        scope = Scope.open();
        net = new Tiny(DType.FLOAT64);
        model = new AdaptedModel(net, net.heads());
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static final Merger.Chosen<?> CAT = new Merger.Chosen<>(new CatMerger(), new CatMerger.Config());
    private static final Merger.Chosen<?> SVD = new Merger.Chosen<>(new SvdMerger(), new Form(true, 6, 0));

    private Attached add(String name, Targets targets, Lora.Config config, String... kept) {
        return move(
                model.attach(
                        name,
                        AdapterSpec.of(new Lora.Type(), config, targets).withModulesToSave(List.of(kept)),
                        new Seed(name.hashCode())),
                name);
    }

    private static Attached move(Attached adapter, String name) {
        try (Grad off = Grad.off();
                Generator g = Generator.of(name.hashCode())) {
            adapter.parameters()
                    .values()
                    .forEach(p ->
                            p.tensor().add_(g.randn(p.shape()).to(p.tensor().dtype()), 0.3));
        }
        return adapter;
    }

    private Merging merge(Merger.Chosen<?> merger, @Nullable String heads, String... names) {
        List<Double> weights = List.of(0.7, -0.4, 1.0).subList(0, names.length);
        return Merging.replace(model, "a", List.of(names), weights, merger, heads, new Seed(0));
    }

    private Tensor run() {
        try (Grad off = Grad.off()) {
            return net.forward(Tiny.ids());
        }
    }

    /** The network with the dense weighted sum of the changes in its weights. */
    private Map<String, Tensor> denseSum(Map<String, Double> weights) {
        Map<String, Tensor> changed = new java.util.TreeMap<>();
        weights.forEach((name, w) -> {
            Attached adapter = model.adapter(name);
            adapter.sites().forEach(site -> {
                Tensor delta = adapter.exactFactors(site.path()).product().mul(w);
                changed.merge(site.path(), delta, Tensor::add);
            });
        });
        return changed;
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    @Test
    @Card(
            value = "svd",
            checks = {9})
    @Card(
            value = "cat",
            checks = {9})
    void exactMergesComputeWhatTheDenseSumDoes() {
        train(add("a", ALL, Lora.Config.of(2, 4)), 0);
        train(add("b", Targets.of("proj", "embed_tokens"), Lora.Config.of(3, 2).withRslora(true)), 1);
        Map<String, Tensor> dense = denseSum(Map.of("a", 0.7, "b", -0.4));
        Merging merging = merge(SVD, null, "a", "b");
        assertThat(merging.layers()).isEqualTo(5);
        assertThat(merging.distance()).isLessThan(1e-7);
        assertThat(model.names()).containsExactly("a");
        Tensor unmerged = run();
        double loss = loss(unmerged, 0).item();
        model.merge();
        assertThat(gap(run(), unmerged)).isLessThan(1e-9);
        model.unmerge();
        model.disable();
        net.namedModules().forEach((path, module) -> {
            if (dense.containsKey(path) && module instanceof dev.espalier.nn.Layer layer) {
                layer.setWeight(layer.weight().add(dense.get(path)));
            }
        });
        assertThat(gap(run(), unmerged)).isLessThan(1e-5);
        assertThat(loss(run(), 0).item()).isCloseTo(loss, within(1e-4));
    }

    /** Five steps of gradient descent on a task of its own. */
    private void train(Attached adapter, int task) {
        model.activate(adapter.name());
        double before = loss(run(), task).item();
        for (int step = 0; step < 5; step++) {
            loss(net.forward(Tiny.ids()), task).backward();
            try (Grad off = Grad.off()) {
                for (Parameter p : adapter.parameters().values()) {
                    p.tensor().add_(p.tensor().grad(), -0.02);
                    p.tensor().clearGrad();
                }
            }
        }
        assertThat(loss(run(), task).item()).isLessThan(before);
    }

    private static Tensor loss(Tensor scores, int task) {
        long[] labels = {0, 1, 2, 0, 1, 2, 0, 1};
        Tensor target = task == 0 ? Tensor.of(labels, 8) : Tensor.of(labels, 8).flip(0);
        return scores.reshape(8, 3).crossEntropy(target, null, 0, Tensor.Reduction.MEAN);
    }

    @Test
    void resultIsAPlainLoraThatPeftReads() {
        add("a", ALL, Lora.Config.of(2, 4));
        add("b", ALL, Lora.Config.of(3, 1));
        Merging merging = merge(CAT, null, "a", "b");
        assertThat(merging.rank()).isEqualTo(5);
        Tensor merged = run();
        PeftFolder.save(model, "a", folder, null, PeftFolder.Form.PLAIN, Map.of());
        Map<String, Object> config = PeftFolder.config(folder.resolve("a"));
        assertThat(config)
                .containsEntry("peft_type", "LORA")
                .containsEntry("r", 5L)
                .containsEntry("lora_alpha", 5L)
                .containsEntry("use_rslora", false)
                .containsEntry("init_lora_weights", true)
                .containsEntry("target_modules", List.of("fc", "proj", "embed_tokens"));
        model.remove("a");
        PeftFolder.load(model, folder, "again", false);
        assertThat(gap(run(), merged)).isLessThan(1e-12);
    }

    /** PiSSA and OLoRA count with what their start takes out of the weights: PEFT would change the base. */
    @Test
    void startsTakenOutOfTheWeightsAreMerged() {
        AdapterSpec<?> spec =
                AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 4), FC).withInitializer(new Olora());
        move(model.attach("a", spec, new Seed(0)), "a");
        add("b", FC, Lora.Config.of(3, 1));
        model.activate("a", "b");
        Tensor both = run();
        Merging.replace(model, "a", List.of("a", "b"), List.of(1.0, 1.0), CAT, null, new Seed(0));
        assertThat(gap(run(), both)).isLessThan(1e-9);
    }

    @Test
    void headsAreTakenAsSaid() {
        Lora.Config config = Lora.Config.of(2, 4);
        Attached a = add("a", FC, config, "head");
        Attached b = add("b", FC, config, "head");
        String key = "base_model.model.head.weight";
        Tensor headA = a.kept().get(key).clone();
        Tensor headB = b.kept().get(key).clone();
        assertThatThrownBy(() -> merge(CAT, null, "a", "b"))
                .hasMessage(
                        "a and b both bring their own version of head.weight (modules_to_save), which cannot be merged as a change can; say with heads whose to take, or mean");
        assertThatThrownBy(() -> merge(CAT, "c", "a", "b"))
                .hasMessage("heads is c, which is none of the adapters; name one of [a, b], or mean");
        assertThat(model.names()).containsExactly("a", "b"); // nothing is lost by a refusal
        merge(CAT, "b", "a", "b");
        assertThat(model.adapter("a").kept().get(key).equal(headB)).isTrue();
        model.remove("a");

        add("a", FC, config, "head");
        add("c", FC, config);
        merge(CAT, null, "a", "c"); // one head alone needs no word
        assertThat(model.adapter("a").kept().get(key).equal(headA)).isTrue();
        model.remove("a");

        add("a", FC, config, "head");
        add("b", FC, config, "head");
        Merging.replace(model, "a", List.of("a", "b"), List.of(1.0, 3.0), CAT, Merging.MEAN, new Seed(0));
        assertThat(gap(model.adapter("a").kept().get(key), headA.mul(0.25).add(headB.mul(0.75))))
                .isLessThan(1e-12);
    }

    @Test
    void whatCannotBeMergedIsRefusedWithAReason() {
        Lora.Config config = Lora.Config.of(2, 4);
        add("a", FC, config);
        move(model.attach("d", AdapterSpec.of(new Dora.Type(), config, FC), new Seed(0)), "d");
        assertThatThrownBy(() -> merge(CAT, null, "a", "d"))
                .hasMessage(
                        "d is of the type dora, which is not exactly a plain LoRA on layers.0.fc; write it as one first, by export --to lora --rank 16");
        add("biased", FC, new Lora.Config(2, 4, 0, false, true, "true", Map.of(), Map.of()));
        assertThatThrownBy(() -> merge(CAT, null, "a", "biased"))
                .hasMessage(
                        "biased trained a bias with B on layers.0.fc (lora_bias), which merging would lose; merge adapters without");
        model.attach("all", AdapterSpec.of(new Lora.Type(), config, FC).withBias(AdapterSpec.Bias.ALL), new Seed(0));
        assertThatThrownBy(() -> merge(CAT, null, "a", "all"))
                .hasMessage(
                        "all trained biases of the network (bias: all), which merging would lose; merge adapters without");
        assertThatThrownBy(() -> Merging.replace(model, "a", List.of("a", "d"), List.of(1.0), CAT, null, new Seed(0)))
                .hasMessage("1 weights were given for 2 adapters; give one for each");
        assertThatThrownBy(() -> Merging.replace(model, "a", List.of("a"), List.of(Double.NaN), CAT, null, new Seed(0)))
                .hasMessage("a weight is NaN; weights must be finite numbers");
        add("keeps", Targets.of("proj"), config, "layers.0.fc");
        assertThatThrownBy(() -> merge(CAT, null, "a", "keeps")).hasMessageContaining("kept whole by another");
    }
}
