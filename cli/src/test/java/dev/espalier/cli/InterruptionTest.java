package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import dev.espalier.train.Progress;
import dev.espalier.train.ProgressListener;
import dev.espalier.train.TrainResult;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What Ctrl-C asks for: a checkpoint, a word on how to go on, and the same adapter in the end. */
class InterruptionTest {

    @TempDir
    private Path folder;

    @Test
    void anInterruptedRunGoesOnToTheSameAdapter() throws IOException {
        Path model = Cli.bert(folder.resolve("model"));
        Path data = Cli.data(folder.resolve("data.csv"));
        Path straight = folder.resolve("straight");
        Path recipe = Cli.recipe(folder.resolve("recipe.yaml"), model, data, straight);
        assertThat(Cli.run("train", recipe.toString()).code()).isZero();

        Path stopped = folder.resolve("stopped");
        Recipe again = Recipe.read(recipe.toString(), List.of()).withOut(stopped);
        try (Run run = Run.prepare(again)) {
            Run.Result result = run.train(false, new ProgressListener() {
                @Override
                public void step(Progress p) {
                    if (p.step() == 2) {
                        run.requestStop();
                    }
                }
            });
            assertThat(result.training().status()).isEqualTo(TrainResult.Status.INTERRUPTED);
            assertThat(result.training().message()).contains("stopped after step 2 of 6", "resume");
            assertThat(result.adapter()).isNull();
        }
        assertThat(stopped.resolve("adapter_model.safetensors")).doesNotExist();

        Cli.Result resumed = Cli.run("train", recipe.toString(), "--out", stopped.toString(), "--resume");
        assertThat(resumed.code()).as(resumed.err()).isZero();
        assertThat(Files.readAllBytes(stopped.resolve("adapter_model.safetensors")))
                .isEqualTo(Files.readAllBytes(straight.resolve("adapter_model.safetensors")));
    }

    @Test
    void resumingNeedsARun() {
        Path recipe = Cli.recipe(
                folder.resolve("recipe.yaml"),
                folder.resolve("model"),
                folder.resolve("data.csv"),
                folder.resolve("nothing"));
        Cli.Result result = Cli.run("train", recipe.toString(), "--resume");
        assertThat(result.code()).isEqualTo(1);
        assertThat(result.complaint()).contains("there is no run to resume in");
    }
}
