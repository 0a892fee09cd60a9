package dev.espalier.cli;

import static dev.espalier.Check.check;

import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Prediction;
import dev.espalier.recipe.Texts;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** Classes, or numbers, for texts. */
@Command(
        name = "predict",
        description =
                "Predicts the class (or the number) of texts given as arguments, in a file, or on standard input.",
        footer = {
            "",
            "Example:  espalier predict --adapter out/quickstart/adapter \"Where is my parcel?\"",
            "          espalier predict --adapter out/quickstart/adapter --input tickets.csv --json"
        })
final class PredictCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Parameters(paramLabel = "TEXT", arity = "0..*", description = "texts; none: lines of standard input")
    private List<String> texts = new ArrayList<>();

    @Option(
            names = "--input",
            paramLabel = "FILE",
            description = "texts from a data file's text column, or from the lines of any other file")
    private @Nullable Path input;

    @Option(names = "--column", paramLabel = "NAME", description = "the column that holds the text")
    private @Nullable String column;

    @Option(names = "--json", description = "print one JSON object a line, with all probabilities")
    private boolean json;

    @Override
    public Integer call() {
        check(input == null || texts.isEmpty(), "give texts as arguments or with --input, not both");
        List<String> wanted = input != null ? Texts.read(input, column) : texts.isEmpty() ? standardInput() : texts;
        check(
                !wanted.isEmpty(),
                "there is no text to predict; give it as an argument, with --input, or on standard input");
        try (LoadedModel loaded = choice.open()) {
            for (Prediction p : loaded.predict(wanted)) {
                print(p);
            }
        }
        return Main.OK;
    }

    private void print(Prediction p) {
        if (json) {
            Map<String, Object> object = new LinkedHashMap<>();
            object.put("text", p.text());
            if (p.probabilities().isEmpty()) {
                object.put("score", p.score());
            } else {
                object.put("label", p.label());
                object.put("probability", p.score());
                object.put("probabilities", p.probabilities());
            }
            terminal.json(object);
        } else if (p.probabilities().isEmpty()) {
            terminal.line("%.4f\t%s", p.score(), p.text());
        } else {
            terminal.line("%s\t%.3f\t%s", p.label(), p.score(), p.text());
        }
    }

    private static List<String> standardInput() {
        return new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))
                .lines()
                .filter(line -> !line.isBlank())
                .toList();
    }
}
