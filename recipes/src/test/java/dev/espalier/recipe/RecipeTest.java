package dev.espalier.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Lora;
import dev.espalier.train.AdamW;
import dev.espalier.train.Schedule;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class RecipeTest {

    private static final String FULL = """
            model: minilm
            task:
              type: classification
              data: tickets.csv
              columns: {text: body, label: queue}
              heldOut: 0.2
              maxLength: 128
              truncate: true
              labelSmoothing: 0.1
              classWeights: {urgent: 2}
            adapter:
              type: lora
              r: 4
              lora_alpha: 16
              targets: [query, value]
              modulesToSave: [classifier]
            train:
              steps: 100
              batch: 16
              accumulation: 2
              learningRate: 1e-3
              optimizer: {type: adamw, beta2: 0.99}
              weightDecay: 0.01
              schedule: cosine
              warmupRatio: 0.1
              clip: 0.5
              precision: fp32
              seed: 7
            out: out/tickets
            """;

    @TempDir
    private Path folder;

    @Test
    void everyFieldIsRead() {
        Recipe recipe = Recipe.of("recipe.yaml", Yaml.parse("recipe.yaml", FULL));
        assertThat(recipe.model()).isEqualTo("minilm");
        assertThat(recipe.task().data()).isEqualTo(Path.of("tickets.csv"));
        assertThat(recipe.task().columns()).containsEntry("label", "queue");
        assertThat(recipe.task().classWeights()).containsEntry("urgent", 2.0);
        assertThat(recipe.task().maxLength()).isEqualTo(128);
        AdapterSpec<?> spec = recipe.adapter().spec();
        assertThat(spec.targets().items()).containsExactly("query", "value");
        assertThat(spec.modulesToSave()).containsExactly("classifier");
        assertThat(((Lora.Config) spec.config()).r()).isEqualTo(4);
        assertThat(recipe.train().config().steps()).isEqualTo(100);
        assertThat(recipe.train().config().epochs()).isZero();
        assertThat(recipe.train().config().learningRate()).isEqualTo(1e-3);
        assertThat(recipe.train().optimizer().config()).isEqualTo(new AdamW.Config(0.9, 0.99, 1e-8, 0.01));
        assertThat(recipe.train().config().schedule()).isEqualTo(new Schedule(Schedule.Curve.COSINE, 0, 0.1));
        assertThat(recipe.out()).isEqualTo(Path.of("out/tickets"));
    }

    @Test
    void builderAndYamlGiveTheSameRecipe() {
        Recipe built = Recipe.of("minilm")
                .task(TaskSpec.Type.CLASSIFICATION, Path.of("tickets.csv"))
                .adapter("lora")
                .set("adapter.r", 4)
                .set("train.epochs", 5)
                .out(Path.of("out/tickets"))
                .build();
        Recipe read = Recipe.of("recipe.yaml", Yaml.parse("recipe.yaml", """
                        model: minilm
                        task: {type: classification, data: tickets.csv}
                        adapter: {type: lora, r: 4}
                        train: {epochs: 5}
                        out: out/tickets
                        """));
        assertThat(built.task()).isEqualTo(read.task());
        assertThat(built.train()).isEqualTo(read.train());
        assertThat(built.settings()).isEqualTo(read.settings());
        assertThat(((Lora.Config) built.adapter().spec().config()))
                .isEqualTo((Lora.Config) read.adapter().spec().config());
    }

    @Test
    void settingsAreLaidOverAFileAndTypedAsYaml() throws Exception {
        Path file = Files.writeString(folder.resolve("r.yaml"), FULL);
        Recipe recipe = Recipe.read(
                file.toString(),
                List.of("train.learningRate=1e-4", "adapter.targets=[key]", "task.truncate=false", "out=elsewhere"));
        assertThat(recipe.train().config().learningRate()).isEqualTo(1e-4);
        assertThat(recipe.adapter().spec().targets().items()).containsExactly("key");
        assertThat(recipe.task().truncate()).isFalse();
        assertThat(recipe.out()).isEqualTo(Path.of("elsewhere"));
    }

    @Test
    void builtInRecipesNeedOnlyModelAndData() {
        for (String name : Recipe.BUILT_IN) {
            if (List.of("merge", "diagnose", "adapt").stream()
                    .anyMatch(verb -> Section.recipes(verb).contains(name))) {
                continue; // for commands that train nothing
            }
            Recipe recipe =
                    Recipe.read(name, List.of("model=minilm", "task={type: classification, data: tickets.csv}"));
            assertThat(recipe.adapter().spec()).as(name).isNotNull();
            assertThat(Yaml.parse(name, Recipe.builtIn(name)).get("citation").toString())
                    .as(name)
                    .containsPattern("arXiv:|20\\d\\d");
        }
        assertThat(Recipe.read("lora-plus", List.of("model=m", "task={type: regression, data: d.csv}"))
                        .train()
                        .groups())
                .isNotNull();
    }

    @Test
    void faultsNameTheField() {
        assertFault(Map.of("modle", "minilm"), "recipe.yaml: model is missing; it takes text (found modle)");
        assertThatThrownBy(() -> Recipe.read("lora", List.of("model=m", "task={type: ranking, data: d}")))
                .isInstanceOf(EspalierException.class)
                .hasMessage("lora: task.type is ranking; it must be classification, regression or causal-lm");
        assertThatThrownBy(() -> Recipe.read(
                        "lora", List.of("model=m", "task={type: regression, data: d, labelSmoothing: 0.1}")))
                .hasMessage("task.labelSmoothing is not for regression, which has no classes; remove it");
        assertThatThrownBy(
                        () -> Recipe.read("lora", List.of("model=m", "task={type: regression, data: d, pack: true}")))
                .hasMessage("task.pack is for causal-lm: a regression answers once a row; remove it");
        assertThatThrownBy(() -> Recipe.read("lora", List.of("train.epochs")))
                .hasMessage("--set train.epochs has no value; write it as key=value, such as train.epochs=3");
        assertThatThrownBy(() -> Recipe.read(
                        "lora", List.of("model=m", "task={type: regression, data: d}", "train.groups.type=lora")))
                .hasMessageContaining(
                        "train.groups is lora, which is of the kind \"adapter\" and has no place there; try lora+");
        assertThatThrownBy(() -> Yaml.parse("r.yaml", "model: a\nmodel: b\n"))
                .isInstanceOf(EspalierException.class)
                .hasMessageStartingWith("r.yaml:2 is not a valid recipe");
    }

    private static void assertFault(Map<String, Object> settings, String message) {
        assertThatThrownBy(() -> Recipe.of("recipe.yaml", settings))
                .isInstanceOf(EspalierException.class)
                .hasMessage(message);
    }
}
