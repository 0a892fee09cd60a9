package dev.espalier.cli;

import dev.espalier.federated.Federation;
import dev.espalier.federated.RenyiAccountant;
import dev.espalier.recipe.FederatedRun;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** Carries out a recipe in rounds over clients. */
@Command(
        name = FederatedRun.VERB,
        description =
                "Fine-tunes a model in rounds over clients that keep their data, with differential privacy, and saves"
                        + " the adapter. Ctrl-C ends after the round and saves.",
        footer = {
            "",
            "Example:  espalier federate fedsvd --set model=minilm --set task.type=classification \\",
            "              --set task.data=tickets.csv --set federate.epsilon=6 --out out/tickets"
        })
final class FederateCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private RecipeChoice choice = new RecipeChoice();

    @Option(names = "--json", description = "print the result as one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Recipe recipe = choice.read();
        Path out = recipe.requireOut();
        Run.checkFree(out, false);
        try (FederatedRun run = FederatedRun.prepare(recipe, terminal.loadOptions())) {
            Interruption.stopBy(run::requestStop);
            try {
                report(run);
                FederatedRun.Result result = run.federate((round, metrics) -> terminal.note(line(run, round, metrics)));
                print(run, result, out);
                return result.finished() ? Main.OK : Main.FAILED;
            } finally {
                Interruption.stopBy(null);
            }
        }
    }

    private void report(FederatedRun run) {
        terminal.note(run.run().splits().train().summary());
        terminal.note(run.run().encodings().summary());
        terminal.note("examples of each client: "
                + run.sizes().stream().map(String::valueOf).collect(Collectors.joining(", ")));
        if (run.config().isPrivate() && Double.isFinite(run.config().epsilon())) {
            terminal.note("noise of each client, in clip norms: "
                    + run.sigmas().stream()
                            .map(s -> String.format(Locale.ROOT, "%.3f", s))
                            .collect(Collectors.joining(", ")));
        }
        terminal.note(String.format(Locale.ROOT, "each client drawn sends %,d numbers a round", run.uploaded()));
    }

    private static String line(FederatedRun run, Federation.Round round, Map<String, Double> metrics) {
        StringBuilder line = new StringBuilder();
        line.append(String.format(
                Locale.ROOT,
                "round %d/%d  clients %s  loss %.4f",
                round.number(),
                run.config().rounds(),
                round.clients().stream().map(String::valueOf).collect(Collectors.joining(",")),
                round.loss()));
        for (String name : List.of("accuracy", "perplexity", "pearson")) {
            Double value = metrics.get(name);
            if (value != null) {
                line.append(String.format(Locale.ROOT, "  held-out %s %.4f", name, value));
            }
        }
        return line.append("  epsilon ").append(epsilon(run, round.epsilon())).toString();
    }

    private static String epsilon(FederatedRun run, double epsilon) {
        return !run.config().isPrivate()
                ? "none"
                : Double.isFinite(epsilon) ? String.format(Locale.ROOT, "%.3f", epsilon) : "infinite";
    }

    private void print(FederatedRun run, FederatedRun.Result result, Path out) {
        if (json) {
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("status", result.finished() ? "completed" : "interrupted");
            facts.put("out", out.toString());
            facts.put("rounds", result.rounds());
            facts.put("metrics", result.metrics());
            if (run.config().isPrivate() && Double.isFinite(result.epsilon())) {
                facts.put("epsilon", result.epsilon());
                facts.put("delta", run.config().delta());
                facts.put("accountant", RenyiAccountant.NAME);
            }
            terminal.json(facts);
            return;
        }
        terminal.line("%s %d rounds", result.finished() ? "completed" : "stopped after", result.rounds());
        if (!result.metrics().isEmpty()) {
            terminal.line("held out: %s", ProgressView.text(result.metrics()));
        }
        terminal.line(
                "privacy:  %s",
                run.config().isPrivate()
                        ? "epsilon %s at delta %s for each record (%s)"
                                .formatted(
                                        epsilon(run, result.epsilon()),
                                        run.config().delta(),
                                        RenyiAccountant.NAME)
                        : "none; set federate.epsilon");
        terminal.line("saved:    %s", out);
        terminal.line("try:      espalier evaluate --adapter %s --data DATA", out);
    }
}
