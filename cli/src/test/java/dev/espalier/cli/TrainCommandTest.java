package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Method;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.recipe.Recipe;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** From a recipe to an adapter, and what can be done with it, on a random model of two layers. */
class TrainCommandTest {

    @TempDir
    static Path folder;

    private static Path data;
    private static Path model;
    private static Path recipe;
    private static Path adapter;
    private static Cli.Result trained;

    @BeforeAll
    static void train() {
        data = Cli.data(folder.resolve("data.csv"));
        model = Cli.bert(folder.resolve("model"));
        adapter = folder.resolve("out");
        recipe = Cli.recipe(folder.resolve("recipe.yaml"), model, data, adapter);
        trained = Cli.run("train", recipe.toString());
    }

    @Test
    void trainSaysWhatItReadAndDidAndSavesTheAdapter() {
        assertThat(trained.code()).as(trained.err()).isZero();
        assertThat(trained.err())
                .contains("9 rows of text + label")
                .contains("held out: 3 examples")
                .contains("trains ")
                .contains("step 1/6");
        assertThat(trained.out()).contains("completed 6 steps", "held out: loss", "accuracy", "saved:");
        assertThat(adapter).isDirectoryContaining(p -> p.endsWith("adapter_config.json"));
        assertThat(adapter.resolve("run.json")).exists();
        assertThat(adapter.resolve("metrics.jsonl")).exists();
        Map<String, Object> receipt = Json.read(adapter.resolve("espalier.json"));
        assertThat(receipt).containsEntry("base", model.toAbsolutePath().toString());
        assertThat(receipt.get("task").toString()).contains("refund").contains("track");
    }

    @Test
    void anAdapterNeedsNoModelArgument() {
        Cli.Result result = Cli.run("predict", "--adapter", adapter.toString(), "--json", "where is my order");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out())
                .contains("\"text\":\"where is my order\"", "\"label\":", "\"probabilities\":{")
                .contains("refund", "track");
        assertThat(Cli.run("predict", "--adapter", adapter.toString(), "--input", data.toString())
                        .out()
                        .lines())
                .hasSize(12);
    }

    @Test
    void evaluateMeasuresEveryClass() {
        Cli.Result result = Cli.run("evaluate", "--adapter", adapter.toString(), "--data", data.toString());
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out()).contains("12 examples", "accuracy", "precision", "refund", "track");
    }

    @Test
    void mergedModelAnswersAsTheAdapterDid() {
        Path merged = folder.resolve("merged");
        Cli.Result result = Cli.run("merge", "--adapter", adapter.toString(), "--out", merged.toString(), "--json");
        assertThat(result.code()).as(result.err()).isZero();
        Map<String, Object> facts = Json.parse("merge", result.out());
        assertThat((double) facts.get("max_logit_difference")).isLessThan(1e-5);
        assertThat(facts).containsEntry("top1_changed", 0L);
        String text = "i want my money back";
        assertThat(Cli.run("predict", "--model", merged.toString(), text).out())
                .isEqualTo(Cli.run("predict", "--adapter", adapter.toString(), text)
                        .out());
    }

    @Test
    void probeWritesLogitsThatAnotherRuntimeCanBeHeldTo() {
        Path file = folder.resolve("logits.safetensors");
        Cli.Result result =
                Cli.run("probe", "--adapter", adapter.toString(), "--ids", "4,5,6,7", "--out", file.toString());
        assertThat(result.code()).as(result.err()).isZero();
        try (TensorSource source = Safetensors.open(file)) {
            assertThat(source.tensors()).containsOnlyKeys("logits");
            assertThat(source.info("logits").shape()).containsExactly(1L, 2L);
            assertThat(source.info("logits").storedType()).isEqualTo("F32");
        }
    }

    @Test
    void exportsAreAdaptersAgain() {
        Path plain = folder.resolve("plain");
        Cli.Result result =
                Cli.run("export", "--adapter", adapter.toString(), "--to", "lora", "--out", plain.toString(), "--json");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out()).contains("\"relative_error\":0.0");
        String text = "where is my refund";
        assertThat(Cli.run("predict", "--adapter", plain.toString(), text).out())
                .isEqualTo(Cli.run("predict", "--adapter", adapter.toString(), text)
                        .out());
        Path weights = folder.resolve("merged.safetensors");
        assertThat(Cli.run(
                                "export",
                                "--adapter",
                                adapter.toString(),
                                "--to",
                                "safetensors",
                                "--out",
                                weights.toString())
                        .code())
                .isZero();
        assertThat(weights).exists();
    }

    @Test
    void inspectTellsWhetherAnAdapterChangesAnything() {
        Cli.Result result = Cli.run("inspect", adapter.toString());
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out()).contains("kind", "adapter", "LORA", "yes, lora_B is not zero");
        assertThat(Cli.run("inspect", model.toString(), "--tensors").out())
                .contains("bert.encoder.layer.1.output.dense.weight", "F32");
    }

    @Test
    void planListsLayersAndForecastsMemoryAndWritesNothing() {
        Path out = folder.resolve("never");
        Cli.Result result = Cli.run("plan", recipe.toString(), "--set", "out=" + out);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out())
                .contains("bert.encoder.layer.0.attention.self.query", "[32, 32]", "trains ", "forecast");
        assertThat(out).doesNotExist();
    }

    @Test
    void trainingGoesOnFromAnAdapter() {
        Path more = folder.resolve("more");
        Path further = Cli.write(folder.resolve("further.yaml"), """
                model: %s
                task: {type: classification, data: %s, heldOut: 0}
                adapter: {from: %s}
                train: {steps: 3, batch: 4, learningRate: 1.0e-3}
                out: %s
                """.formatted(model, data, adapter, more));
        Cli.Result result = Cli.run("train", further.toString());
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(Files.exists(more.resolve("adapter_model.safetensors"))).isTrue();
    }

    /** What a network of width 32 and a run of four steps take instead of what a recipe is made for. */
    private static final Map<String, List<String>> SMALLER = Map.ofEntries(
            Map.entry("oft", List.of("adapter.oft_block_size=8")),
            Map.entry(
                    "adalora",
                    List.of("adapter.init_r=3", "adapter.target_r=2", "adapter.tinit=0", "adapter.tfinal=1")),
            Map.entry("increlora", List.of("adapter.init_warmup=1", "adapter.interval=1", "train.warmupSteps=1")),
            Map.entry(
                    "triadaptlora",
                    List.of("adapter.init_warmup=1", "adapter.incre_interval=1", "train.warmupSteps=1")),
            Map.entry("diffora", List.of("adapter.search_steps=2")),
            Map.entry(
                    "owlore",
                    List.of("train.optimizer.rank=4", "train.sampler.lisa_activated_layers=1", "train.sampler.tau=1")),
            Map.entry("vblora", List.of("adapter.vector_length=8", "adapter.num_vectors=8")),
            Map.entry("fourierft", List.of("adapter.n_frequency=20")),
            Map.entry("galore", List.of("train.optimizer.rank=4")),
            Map.entry("dct-adamw", List.of("train.optimizer.rank=4")),
            Map.entry("smora", List.of("adapter.activate_r=2")));

    @Test
    void builtInRecipesTrain() {
        for (Method method : Catalog.methods().values()) {
            String name = Recipe.recipeOf(method.name());
            if (!Recipe.BUILT_IN.contains(name) || !method.verb().equals("train")) {
                continue;
            }
            Path out = folder.resolve("built-in-" + name);
            List<String> settings = new ArrayList<>(SMALLER.getOrDefault(name, List.of()));
            settings.add("model=" + model);
            settings.add("task={type: classification, data: " + data + ", heldOut: 0}");
            settings.add("train.epochs=2");
            if (Recipe.builtIn(name).contains("\n  r: ")) {
                settings.add("adapter.r=2");
            }
            List<String> command = new ArrayList<>(List.of("train", name, "--out", out.toString()));
            settings.forEach(setting -> command.addAll(List.of("--set", setting)));
            Cli.Result result = Cli.run(command.toArray(String[]::new));
            assertThat(result.code()).as(name + ": " + result.err()).isZero();
            assertThat(Cli.run("predict", "--adapter", out.toString(), "where is it")
                            .code())
                    .as(name)
                    .isZero();
        }
    }

    @Test
    void aLanguageModelLearnsCompletionsAndGenerates() {
        Path llama = Cli.llama(folder.resolve("llama"));
        StringBuilder rows = new StringBuilder();
        for (int i = 0; i < 8; i++) {
            rows.append("{\"prompt\": \"where is my order\", \"completion\": \" it is late\"}\n");
        }
        Path jsonl = Cli.write(folder.resolve("lm.jsonl"), rows.toString());
        Path out = folder.resolve("lm");
        Path lm = Cli.write(folder.resolve("lm.yaml"), """
                model: %s
                task: {type: causal-lm, data: %s, heldOut: 0.25}
                adapter: {type: lora, r: 4, lora_alpha: 16}
                train: {epochs: 60, batch: 4, learningRate: 2.0e-2, logEvery: 20}
                out: %s
                """.formatted(llama, jsonl, out));
        Cli.Result result = Cli.run("train", lm.toString());
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err()).contains("what is learnt in [[ ]]", "perplexity");
        Cli.Result generated = Cli.run(
                "generate", "--adapter", out.toString(), "where is my order", "--max-new-tokens", "8", "--json");
        assertThat(generated.code()).as(generated.err()).isZero();
        assertThat(generated.out()).contains("it is late").contains("\"finish\":\"stop\"");
        assertThat(Cli.run("evaluate", "--adapter", out.toString(), "--data", jsonl.toString())
                        .out())
                .contains("perplexity");
    }
}
