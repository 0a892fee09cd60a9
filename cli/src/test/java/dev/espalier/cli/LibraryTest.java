package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Prediction;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import dev.espalier.recipe.TaskSpec;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The README's ten lines of Java, on a small model. */
class LibraryTest {

    @TempDir
    private Path folder;

    @Test
    void whatTheCommandLineDoesIsTenLinesOfJava() {
        String model = Cli.bert(folder.resolve("model")).toString();
        Path data = Cli.data(folder.resolve("tickets.csv"));
        Path out = folder.resolve("out");

        Recipe recipe = Recipe.of(model)
                .task(TaskSpec.Type.CLASSIFICATION, data)
                .adapter("lora")
                .set("adapter.r", 8)
                .set("train.epochs", 3)
                .out(out)
                .build();
        try (Run run = Run.prepare(recipe)) {
            Run.Result result = run.train();
            assertThat(result.metrics()).containsKey("accuracy");
        }
        try (LoadedModel tuned = LoadedModel.open(out)) {
            List<Prediction> predictions = tuned.predict(List.of("where is my order"));
            assertThat(predictions.get(0).label()).isIn("track", "refund");
        }
    }
}
