package dev.espalier.cli;

import dev.espalier.adapter.Plan;
import dev.espalier.data.Example;
import dev.espalier.recipe.Agreement;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Quickstart;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** The first thing to try. */
@Command(
        name = "quickstart",
        description = {
            "Teaches a small built-in model (all-MiniLM-L6-v2) to sort support tickets into 14 intents by LoRA,",
            "shows what it was worth before and after, and what to try next. Takes a minute or two; needs no download."
        },
        footer = {"", "Example:  espalier quickstart"})
final class QuickstartCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Option(
            names = "--out",
            paramLabel = "DIR",
            description =
                    "the folder for data, recipe and adapter (default: out/quickstart); an earlier quickstart's is replaced")
    private Path out = Path.of("out", "quickstart");

    @Option(
            names = "--set",
            paramLabel = "KEY=VALUE",
            description = "a setting in place of the quickstart's, such as train.epochs=2")
    private List<String> settings = List.of();

    @Option(names = "--json", description = "print the report as one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Instant start = Instant.now();
        Quickstart.prepare(out);
        Recipe recipe = Recipe.read(out.resolve(Quickstart.RECIPE).toString(), settings);
        Path adapter = Objects.requireNonNull(recipe.out());
        Map<String, Object> facts = new LinkedHashMap<>();
        List<String> texts;
        try (Run run = Run.prepare(recipe, terminal.loadOptions())) {
            List<Example> test = Objects.requireNonNull(run.splits().test()).examples();
            texts = test.stream().map(e -> ((Example.Labelled) e).text()).toList();
            Plan plan = run.plan();
            say(
                    "Data     %d support tickets to learn from, %d to judge by, %d intents",
                    run.splits().train().examples().size(),
                    test.size(),
                    Objects.requireNonNull(run.labels()).size());
            say(
                    "Model    %s, %s parameters, all frozen",
                    run.pretrained().origin().name(), Terminal.count(plan.networkParameters()));
            double before = run.baseline();
            say("Before   %.1f %% right: nearest centroid of the frozen model's embeddings", 100 * before);
            say(
                    "Training LoRA and a new head: %s parameters (%.1f %%)",
                    Terminal.count(plan.trainableParameters()),
                    100.0 * plan.trainableParameters() / plan.networkParameters());
            Run.Result result = run.train(
                    false, terminal.progress(Math.max(1, recipe.train().config().logEvery())));
            if (result.adapter() == null) {
                terminal.line("%s", result.training().message());
                return Main.FAILED;
            }
            double after = Objects.requireNonNull(result.metrics().get("accuracy"));
            say("After    %.1f %% right", 100 * after);
            facts.put("accuracy_before", before);
            facts.put("accuracy_after", after);
            facts.put("trainable_parameters", plan.trainableParameters());
            facts.put("tokens_per_second", result.training().tokensPerSecond());
            facts.put("peak_resident_bytes", result.training().peakResidentBytes());
        }
        try (LoadedModel reloaded = LoadedModel.open(adapter)) {
            Agreement agreement = Agreement.of(reloaded, texts);
            say(
                    "Saved    %s, loaded again, merged into the model: logits differ by at most %.1g, %d of %d predictions agree",
                    adapter, agreement.maxLogitDifference(), agreement.equalPredictions(), agreement.texts());
            facts.put("adapter", adapter.toString());
            facts.put("merged_max_logit_difference", agreement.maxLogitDifference());
            facts.put("merged_equal_predictions", agreement.equalPredictions());
            facts.put("texts", agreement.texts());
        }
        long seconds = Duration.between(start, Instant.now()).toSeconds();
        facts.put("seconds", seconds);
        if (json) {
            terminal.json(facts);
            return Main.OK;
        }
        say(
                "Took     %s min, at most %s of memory",
                ProgressView.clock(seconds), Terminal.bytes((long) facts.get("peak_resident_bytes")));
        next(adapter);
        return Main.OK;
    }

    private void say(String format, Object... arguments) {
        if (!json) {
            terminal.line(format, arguments);
        }
    }

    private void next(Path adapter) {
        terminal.line("");
        terminal.line("Next:");
        terminal.line("  espalier predict --adapter %s \"Where is my parcel?\"", adapter);
        terminal.line(
                "  espalier evaluate --adapter %s --data %s",
                adapter, out.resolve(Quickstart.DATA).resolve("test.csv"));
        terminal.line("  espalier methods");
        terminal.line("With your own data (a CSV with the columns text and label):");
        terminal.line("  espalier train lora --set model=minilm --set task.type=classification \\");
        terminal.line("      --set task.data=YOURS.csv --out out/mine");
    }
}
