package dev.espalier.cli;

import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.TestTimeRun;
import dev.espalier.testtime.TestTime;
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

/** Predictions that adapt to the stream. */
@Command(
        name = "adapt",
        description =
                "Predicts the classes of a file's texts batch after batch, as the model does and adapted to each batch; if there are labels, says how right both are.",
        footer = {
            "",
            "Example:  espalier adapt lame --adapter out/tickets --data stream.csv",
            "          espalier adapt lame --adapter out/tickets --data stream.csv --set affinity=knn --batch 64"
        })
final class AdaptCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Parameters(paramLabel = "RECIPE", description = "how to adapt: lame, or a YAML file")
    private String recipe = "";

    @Option(
            names = "--data",
            required = true,
            paramLabel = "FILE",
            description = "texts in the order of the stream, perhaps with labels")
    private Path data = Path.of("");

    @Option(
            names = "--column",
            paramLabel = "PART=NAME",
            description = "which column plays which part, such as text=body; may be given several times")
    private Map<String, String> columns = new LinkedHashMap<>();

    @Option(names = "--batch", paramLabel = "N", description = "texts that are adapted to together (default: 16)")
    private int batch = 16;

    @Option(
            names = "--set",
            paramLabel = "KEY=VALUE",
            description =
                    "a setting of the method in place of the recipe's, such as affinity=knn; may be given several times")
    private List<String> settings = new ArrayList<>();

    @Option(names = "--json", description = "print one JSON object, with every prediction")
    private boolean json;

    @Override
    public Integer call() {
        TestTime.Chosen<?> method = TestTimeRun.method(recipe, settings);
        try (LoadedModel loaded = choice.open()) {
            TestTimeRun run = TestTimeRun.of(loaded, method, data, columns, batch);
            if (json) {
                terminal.json(facts(run, method));
                return Main.OK;
            }
            if (!run.isLabelled()) {
                run.rows().forEach(r -> terminal.line("%s\t%.3f\t%s", r.label(), r.probability(), r.text()));
                terminal.note("%d of %d predictions changed"
                        .formatted(run.changed(), run.rows().size()));
                return Main.OK;
            }
            terminal.line(
                    "%,d examples in batches of %d  accuracy %.4f  adapted by %s %.4f  predictions changed %d",
                    run.rows().size(),
                    batch,
                    run.accuracyBefore(),
                    method.method().name(),
                    run.accuracy(),
                    run.changed());
            run.figures().forEach((name, value) -> terminal.line("%s %.3f", name.replace('_', ' '), value));
        }
        return Main.OK;
    }

    private Map<String, Object> facts(TestTimeRun run, TestTime.Chosen<?> method) {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("method", method.method().name());
        facts.put("examples", run.rows().size());
        facts.put("batch", batch);
        facts.put("changed", run.changed());
        if (run.isLabelled()) {
            facts.put("accuracy", run.accuracyBefore());
            facts.put("adapted_accuracy", run.accuracy());
        }
        facts.putAll(run.figures());
        facts.put(
                "predictions",
                run.rows().stream()
                        .map(r -> {
                            Map<String, @Nullable Object> row = new LinkedHashMap<>();
                            row.put("text", r.text());
                            row.put("label", r.label());
                            row.put("probability", r.probability());
                            row.put("before", r.before());
                            return row;
                        })
                        .toList());
        return facts;
    }
}
