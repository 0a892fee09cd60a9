package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import dev.espalier.recipe.Quickstart;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The quickstart from end to end on the built-in model, cut short: its full length is the README's business. */
class QuickstartCommandTest {

    @TempDir
    private Path folder;

    @Test
    void reportsBeforeAndAfterAndThatMergedEqualsUnmergedAndMayBeReplaced() {
        Path out = folder.resolve("quickstart");
        Cli.Result result =
                Cli.run("quickstart", "--out", out.toString(), "--set", "train={steps: 3, batch: 4}", "--json");
        assertThat(result.code()).as(result.err()).isZero();
        Map<String, Object> facts = Json.parse("report", result.out());
        assertThat((double) facts.get("accuracy_before")).isBetween(0.6, 0.8); // 155 of 224 when this was written
        assertThat((double) facts.get("accuracy_after")).isBetween(0.0, 1.0);
        assertThat((double) facts.get("merged_max_logit_difference")).isLessThan(1e-4);
        assertThat(facts).containsEntry("merged_equal_predictions", 224L).containsEntry("texts", 224L);
        assertThat(out.resolve("adapter/adapter_config.json")).exists();

        Quickstart.prepare(out); // as a second quickstart begins
        assertThat(out.resolve("adapter")).doesNotExist();
        assertThat(out.resolve("data/test.csv")).exists();
        assertThat(out.resolve("recipe.yaml")).exists();
    }
}
