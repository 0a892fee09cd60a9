package dev.espalier.cli;

import dev.espalier.recipe.Judgement;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.task.ClassificationEvaluator.ClassScore;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** How good a model is on data. */
@Command(
        name = "evaluate",
        description = "Measures a model on data: accuracy and F1, errors and correlations, or loss and perplexity.",
        footer = {"", "Example:  espalier evaluate --adapter out/tickets --data test.csv"})
final class EvaluateCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Option(
            names = "--data",
            required = true,
            paramLabel = "FILE",
            description = "what to judge by: a file of rows as in training")
    private Path data = Path.of("");

    @Option(
            names = "--column",
            paramLabel = "PART=NAME",
            description = "which column plays which part, such as text=body; may be given several times")
    private Map<String, String> columns = new LinkedHashMap<>();

    @Option(names = "--batch", paramLabel = "N", description = "rows at a time (default: 32)")
    private int batch = 32;

    @Option(
            names = "--exact-match",
            description = "let a language model answer too, and count the answers that are exactly those of the data")
    private boolean exactMatch;

    @Option(
            names = "--max-new-tokens",
            paramLabel = "N",
            description = "tokens of an answer at most, with --exact-match (default: 64)")
    private int maxNewTokens = 64;

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        try (LoadedModel loaded = choice.open()) {
            Judgement judgement = exactMatch
                    ? Judgement.withExactMatch(loaded, data, columns, batch, maxNewTokens)
                    : Judgement.of(loaded, data, columns, batch);
            if (json) {
                Map<String, Object> facts = new LinkedHashMap<>();
                facts.put("examples", judgement.examples());
                facts.put("metrics", judgement.metrics());
                facts.put(
                        "classes",
                        judgement.classes().stream()
                                .map(c -> Map.of(
                                        "label", c.label(),
                                        "precision", c.precision(),
                                        "recall", c.recall(),
                                        "f1", c.f1(),
                                        "support", c.support()))
                                .toList());
                terminal.json(facts);
                return Main.OK;
            }
            terminal.line("%,d examples  %s", judgement.examples(), ProgressView.text(judgement.metrics()));
            if (!judgement.classes().isEmpty()) {
                List<List<String>> rows = new ArrayList<>();
                rows.add(List.of("class", "precision", "recall", "f1", "examples"));
                for (ClassScore c : judgement.classes()) {
                    rows.add(List.of(
                            c.label(),
                            share(c.precision()),
                            share(c.recall()),
                            share(c.f1()),
                            String.valueOf(c.support())));
                }
                terminal.line("");
                terminal.table(rows);
            }
        }
        return Main.OK;
    }

    private static String share(double value) {
        return String.format(Locale.ROOT, "%.3f", value);
    }
}
