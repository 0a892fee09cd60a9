package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A stream adapted to from the command line. */
class AdaptCommandTest {

    @TempDir
    private Path folder;

    private Path data;
    private Path adapter;

    @BeforeEach
    void train() {
        data = Cli.data(folder.resolve("data.csv"));
        adapter = folder.resolve("out");
        Path model = Cli.bert(folder.resolve("model"));
        Path recipe = Cli.recipe(folder.resolve("recipe.yaml"), model, data, adapter);
        assertThat(Cli.run("train", recipe.toString()).code()).isZero();
    }

    private Cli.Result adapt(String... more) {
        return Cli.run(java.util.stream.Stream.concat(
                        java.util.stream.Stream.of("adapt", "lame", "--adapter", adapter.toString()),
                        java.util.stream.Stream.of(more))
                .toArray(String[]::new));
    }

    private static void fails(Cli.Result result, String... parts) {
        assertThat(result.code()).as(result.err()).isEqualTo(1);
        assertThat(result.complaint()).contains(parts);
        assertThat(result.complaint().lines()).hasSize(1);
    }

    @Test
    void accuracyWithAndWithoutIsSaid() {
        Cli.Result result = adapt("--data", data.toString(), "--batch", "6", "--set", "affinity=knn", "--set", "k=2");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out())
                .contains("12 examples in batches of 6  accuracy", "adapted by lame", "affinity row sum 2");
        assertThat(adapt("--data", data.toString(), "--json").out())
                .contains("\"adapted_accuracy\":", "\"predictions\":[", "\"before\":");
    }

    @Test
    void withoutLabelsThePredictionsAreSaid() {
        Path texts = Cli.write(folder.resolve("texts.csv"), "text\nwhere is my order\ni want my money back\n");
        Cli.Result result = adapt("--data", texts.toString());
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out().lines()).hasSize(2).allMatch(l -> l.matches("(track|refund)\t0\\.\\d+\t.*"));
        assertThat(result.err()).contains("of 2 predictions changed");
    }

    @Test
    void whatDoesNotFitIsSaid() {
        fails(adapt("--data", data.toString(), "--set", "k=1"), "k is 1", "try 5");
        fails(adapt("--data", data.toString(), "--set", "affnity=knn"), "adapt.affnity", "did you mean affinity?");
        fails(adapt("--data", data.toString(), "--batch", "0"), "batch size must be at least 1");
        Path other = Cli.write(folder.resolve("other.csv"), "text,label\nwhere is it,lost\n");
        fails(adapt("--data", other.toString()), "other.csv:2", "\"lost\" does not occur");
        Path llama = Cli.llama(folder.resolve("llama"));
        fails(
                Cli.run("adapt", "lame", "--model", llama.toString(), "--data", data.toString()),
                "is no classifier",
                "trained to classify");
        fails(Cli.run("adapt", "ties", "--adapter", adapter.toString(), "--data", data.toString()), "lame");
        fails(Cli.run("train", "lame"), "lame is a recipe for espalier adapt");
    }
}
