package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A diagnosis and its repair from the command line. */
class DiagnoseCommandTest {

    @TempDir
    private Path folder;

    private Path train(String... settings) {
        Path adapter = folder.resolve("out");
        Path model = Cli.bert(folder.resolve("model"));
        Path recipe = Cli.recipe(folder.resolve("recipe.yaml"), model, Cli.data(folder.resolve("data.csv")), adapter);
        Stream<String> set = Stream.of(settings).flatMap(s -> Stream.of("--set", s));
        assertThat(Cli.run(Stream.concat(Stream.of("train", recipe.toString()), set)
                                .toArray(String[]::new))
                        .code())
                .isZero();
        return adapter;
    }

    private static Cli.Result diagnose(Path adapter, String... more) {
        return Cli.run(Stream.concat(Stream.of("diagnose", "--adapter", adapter.toString()), Stream.of(more))
                .toArray(String[]::new));
    }

    private static void fails(Cli.Result result, String... parts) {
        assertThat(result.code()).as(result.err()).isEqualTo(1);
        assertThat(result.complaint()).contains(parts);
        assertThat(result.complaint().lines()).hasSize(1);
    }

    @Test
    void countsLayerByLayerAndRepairs() {
        Path adapter = train();
        Cli.Result report = diagnose(adapter, "--set", "k=3");
        assertThat(report.code()).as(report.err()).isZero();
        assertThat(report.out()).contains("layer", "intruders", "query", "infected layers", "k 3", "eps 0.500");
        Path repaired = folder.resolve("repaired");
        Cli.Result result = diagnose(
                adapter,
                "--set",
                "eps=1.01",
                "--set",
                "k=2",
                "--set",
                "lambda=0.5",
                "--repair",
                repaired.toString(),
                "--json");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out()).contains("\"intruders\":2", "\"repaired\":{", "\"rank\":4", "\"norm_ratio\":");
        assertThat(Cli.run("predict", "--adapter", repaired.toString(), "where is my order")
                        .code())
                .isZero();
        Cli.Result table =
                diagnose(repaired, "--repair", folder.resolve("again").toString());
        assertThat(table.out()).contains("repaired, a plain LoRA of rank", "espalier merge linear --adapters");
    }

    @Test
    void measuresOnTexts() {
        Path adapter = train();
        String data = folder.resolve("data.csv").toString();
        Cli.Result report = diagnose(adapter, "lora-limits", "--data", data, "--set", "lengths=[16, 32]");
        assertThat(report.code()).as(report.err()).isZero();
        assertThat(report.out())
                .contains("attention.self", "gamma hat", "score bound", "exact against approximate", "error dq");
        Cli.Result facts = diagnose(adapter, "lora-limits", "--data", data, "--set", "lengths=[16]", "--json");
        assertThat(facts.out()).contains("\"gamma_hat\":", "\"beside\":{\"exact against", "\"length\":16");
        fails(diagnose(adapter, "lora-limits"), "there are none; name a file with --data");
    }

    @Test
    void whatDoesNotFitIsSaid() {
        Path adapter = train("adapter.type=dora");
        fails(diagnose(adapter, "--set", "k=0"), "k must be at least 1, found 0; try 10");
        fails(diagnose(adapter, "--set", "epss=1"), "diagnose.epss", "did you mean eps?");
        fails(diagnose(adapter, "--repair", folder.resolve("r").toString()), "dora is not exactly a plain LoRA");
        fails(diagnose(adapter, "--repair", adapter.toString()), "is not empty");
        assertThat(folder.resolve("r")).doesNotExist();
        Cli.Result nothing = Cli.run("diagnose");
        assertThat(nothing.code()).isEqualTo(2);
        assertThat(nothing.err()).contains("--adapter");
    }
}
