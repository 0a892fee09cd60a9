package dev.espalier.cli;

import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import dev.espalier.recipe.UnlearnRun;
import dev.espalier.train.TrainResult;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** Makes a language model forget. */
@Command(
        name = UnlearnRun.VERB,
        description =
                "Makes a language model forget what is in one file and keep what is in another, by a recipe with a"
                        + " section unlearn, and saves the adapter. Ctrl-C saves a checkpoint to go on from.",
        footer = {
            "",
            "Example:  espalier unlearn loku --set model=smollm2.gguf --set task.type=causal-lm \\",
            "              --set task.forget=secret.jsonl --set task.retain=other.jsonl --out out/without"
        })
final class UnlearnCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private RecipeChoice choice = new RecipeChoice();

    @Option(names = "--resume", description = "go on from the newest checkpoint in the output folder")
    private boolean resume;

    @Option(names = "--json", description = "print the result as one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Recipe recipe = choice.read();
        Path out = recipe.requireOut();
        Run.checkFree(out, resume);
        try (UnlearnRun run = UnlearnRun.prepare(recipe, terminal.loadOptions())) {
            Interruption.stopBy(run::requestStop);
            try {
                terminal.note("to forget: " + run.forget().summary());
                terminal.note("to retain: " + run.run().encodings().summary());
                UnlearnRun.State before = run.state();
                terminal.note("before:  " + text(before));
                UnlearnRun.Result result = run.unlearn(
                        before,
                        resume,
                        terminal.progress(recipe.train().config().logEvery()));
                boolean whole = result.training().status() != TrainResult.Status.INTERRUPTED;
                print(result, whole, out);
                return whole ? Main.OK : Main.FAILED;
            } finally {
                Interruption.stopBy(null);
            }
        }
    }

    private void print(UnlearnRun.Result result, boolean whole, Path out) {
        TrainResult training = result.training();
        if (json) {
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("status", training.status().name().toLowerCase(Locale.ROOT));
            facts.put("out", out.toString());
            facts.put("steps", training.steps());
            facts.put("forget_before", result.before().forget());
            facts.put("retain_before", result.before().retain());
            if (whole) {
                facts.put("forget_after", result.after().forget());
                facts.put("retain_after", result.after().retain());
            }
            facts.put("message", training.message());
            terminal.json(facts);
            return;
        }
        terminal.line("%s", training.message());
        if (!whole) {
            terminal.line("To go on: the same command with --resume");
            return;
        }
        List<List<String>> rows = List.of(
                List.of("", "loss", "probability of a token", "token accuracy"),
                row("forget, before", result.before().forget()),
                row("forget, after", result.after().forget()),
                row("retain, before", result.before().retain()),
                row("retain, after", result.after().retain()));
        terminal.table(rows);
        terminal.line("saved:    %s", out);
        terminal.line("try:      espalier generate --adapter %s \"...\"", out);
    }

    private static List<String> row(String name, Map<String, Double> metrics) {
        return List.of(
                name,
                figure(value(metrics, "loss")),
                figure(Math.exp(-value(metrics, "loss"))),
                figure(value(metrics, "token_accuracy")));
    }

    private static String text(UnlearnRun.State state) {
        return "forget loss %s, probability of a token %s; retain loss %s, probability %s"
                .formatted(
                        figure(value(state.forget(), "loss")),
                        figure(Math.exp(-value(state.forget(), "loss"))),
                        figure(value(state.retain(), "loss")),
                        figure(Math.exp(-value(state.retain(), "loss"))));
    }

    private static double value(Map<String, Double> metrics, String name) {
        return Objects.requireNonNull(metrics.get(name));
    }

    private static String figure(double value) {
        return String.format(Locale.ROOT, "%.4f", value);
    }
}
