package dev.espalier.cli;

import dev.espalier.adapter.Plan;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import dev.espalier.train.TrainResult;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** Carries out a recipe. */
@Command(
        name = "train",
        description = "Fine-tunes a model by a recipe, and saves the adapter. Ctrl-C saves a checkpoint to go on from.",
        footer = {
            "",
            "Example:  espalier train tickets.yaml --set train.epochs=5",
            "          espalier train lora --set model=minilm --set task.type=classification \\",
            "              --set task.data=tickets.csv --out out/tickets"
        })
final class TrainCommand implements Callable<Integer> {

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
        try (Run run = Run.prepare(recipe, terminal.loadOptions())) {
            Interruption.stopBy(run::requestStop);
            try {
                report(run);
                Run.Result result = run.train(
                        resume, terminal.progress(recipe.train().config().logEvery()));
                print(result, out);
                return result.adapter() == null ? Main.FAILED : Main.OK;
            } finally {
                Interruption.stopBy(null);
            }
        }
    }

    private void report(Run run) {
        terminal.note(run.splits().train().summary());
        if (run.splits().validation() != null) {
            terminal.note("held out: " + run.splits().validation().examples().size() + " examples");
        }
        terminal.note(run.encodings().summary());
        if (run.encodings().targets() > 0) {
            terminal.note("an example, what is learnt in [[ ]]:");
            terminal.note(run.preview().strip().indent(2).stripTrailing());
        }
        Plan plan = run.plan();
        terminal.note("trains %,d of %,d parameters (%.2f %%) in %d places of %s"
                .formatted(
                        plan.trainableParameters(),
                        plan.networkParameters(),
                        100.0 * plan.trainableParameters() / plan.networkParameters(),
                        plan.layers().size(),
                        run.pretrained().origin().name()));
        if (run.recomputes()) {
            terminal.note("layers keep their inputs only and are computed again in the backward pass, to save memory");
        }
    }

    private void print(Run.Result result, Path out) {
        TrainResult training = result.training();
        if (json) {
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("status", training.status().name().toLowerCase(java.util.Locale.ROOT));
            facts.put("out", out.toString());
            facts.put("steps", training.steps());
            facts.put("train_loss", training.trainLoss());
            facts.put("metrics", result.metrics());
            facts.put("tokens_per_second", training.tokensPerSecond());
            facts.put("peak_resident_bytes", training.peakResidentBytes());
            facts.put("message", training.message());
            terminal.json(facts);
            return;
        }
        terminal.line("%s", training.message());
        if (result.adapter() == null) {
            terminal.line("To go on: the same command with --resume");
            return;
        }
        terminal.line(
                "loss %.4f, %,.0f tokens/s, at most %s of memory",
                training.trainLoss(), training.tokensPerSecond(), Terminal.bytes(training.peakResidentBytes()));
        if (!result.metrics().isEmpty()) {
            terminal.line("held out: %s", ProgressView.text(result.metrics()));
        }
        terminal.line("saved:    %s", out);
        terminal.line(
                "try:      espalier %s --adapter %s \"...\"",
                result.metrics().containsKey("perplexity") || result.metrics().isEmpty() ? "generate" : "predict", out);
    }
}
