package dev.espalier.cli;

import dev.espalier.merge.Merging;
import dev.espalier.recipe.Combination;
import dev.espalier.recipe.Generation;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Merge;
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
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;

/** Folds an adapter into its base, or several adapters into one. */
@Command(
        name = "merge",
        description = {
            "Without RECIPE: folds an adapter into its base, as a Hugging Face model folder; reloads it and says how the two"
                    + " differ.",
            "With RECIPE: combines several adapters of one base into a new adapter, without training."
        },
        footer = {
            "",
            "Example:  espalier merge --adapter out/tickets --out out/tickets-merged",
            "          espalier merge svd --adapters out/a,out/b --weights 0.5,0.5 --out out/both",
            "          espalier merge ties --adapters out/a,out/b --set density=0.3 --heads out/a --out out/both",
            "          espalier merge icm-lora --adapters out/a,out/b --data a.csv,b.csv --for b.csv --out out/made"
        })
final class MergeCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Parameters(
            arity = "0..1",
            paramLabel = "RECIPE",
            description =
                    "how to combine adapters: svd, cat, linear, ties, dare, magnitude-prune, lora-lego; icm-lora learns from them"
                            + " and makes another; or a YAML file")
    private @Nullable String recipe;

    @Option(
            names = "--adapters",
            paramLabel = "DIR",
            split = ",",
            description = "with RECIPE: the adapters' folders, with commas between")
    private List<String> adapters = new ArrayList<>();

    @Option(
            names = "--weights",
            paramLabel = "W",
            split = ",",
            description = "with RECIPE: a number for each adapter, of any sign (default: 1 each)")
    private List<Double> weights = new ArrayList<>();

    @Option(
            names = "--heads",
            paramLabel = "DIR",
            description = "with RECIPE: the adapter whose trained head to take where several have one, or mean")
    private @Nullable String heads;

    @Option(
            names = "--data",
            paramLabel = "FILE",
            split = ",",
            description = "with icm-lora: samples of the task of each adapter, with commas between")
    private List<String> data = new ArrayList<>();

    @Option(
            names = "--for",
            paramLabel = "FILE",
            description = "with icm-lora: samples of the task to make an adapter for")
    private @Nullable String wanted;

    @Option(names = "--seed", paramLabel = "N", description = "with RECIPE: of methods that draw (default: 0)")
    private @Nullable Long seed;

    @Option(
            names = "--set",
            paramLabel = "KEY=VALUE",
            description =
                    "with RECIPE: a setting of the method in place of the recipe's, such as density=0.2; may be given several times")
    private List<String> settings = new ArrayList<>();

    @Option(
            names = "--out",
            required = true,
            paramLabel = "DIR",
            description = "the folder to write; must not hold anything")
    private Path out = Path.of("");

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        if (recipe != null) {
            return combine(recipe);
        }
        if (!adapters.isEmpty()) {
            throw new ParameterException(
                    choice.commandLine(),
                    "say how to combine the adapters, such as: espalier merge svd --adapters "
                            + String.join(",", adapters));
        }
        choice.requireAdapter();
        try (LoadedModel loaded = choice.open()) {
            Merge merge = Merge.into(loaded, out);
            if (json) {
                Map<String, Object> facts = new LinkedHashMap<>();
                facts.put("out", out.toString());
                facts.put("layers", merge.layers());
                facts.put("max_change", merge.maxChange());
                facts.put("max_rounding", merge.maxRounding());
                facts.put("max_logit_difference", merge.maxLogitDifference());
                facts.put("top1_changed", merge.topOneChanged());
                facts.put("rows", merge.rows());
                terminal.json(facts);
                return Main.OK;
            }
            terminal.line(
                    "%s: %d layers took up the adapter; weights changed by at most %.3g, rounded by at most %.3g",
                    out, merge.layers(), merge.maxChange(), merge.maxRounding());
            terminal.line(
                    "reloaded and compared on fixed texts: outputs differ by at most %.3g, the likeliest in %d of %d",
                    merge.maxLogitDifference(), merge.topOneChanged(), merge.rows());
        }
        return Main.OK;
    }

    private Integer combine(String how) {
        choice.refuseAdapter("name the adapters to combine with --adapters DIR,DIR");
        Map<String, Object> given = new LinkedHashMap<>();
        if (!adapters.isEmpty()) {
            given.put("adapters", adapters);
        }
        if (!weights.isEmpty()) {
            given.put("weights", weights);
        }
        if (heads != null) {
            given.put("heads", heads);
        }
        if (seed != null) {
            given.put("seed", seed);
        }
        if (Generation.means(how)) {
            return generate(how, given);
        }
        if (!data.isEmpty() || wanted != null) {
            throw new ParameterException(
                    choice.commandLine(), how + " combines adapters and reads no data; leave --data and --for out");
        }
        Combination combination = Combination.read(how, settings, given);
        Merging merging = combination.into(out, choice.model(), choice.options());
        if (json) {
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("out", out.toString());
            facts.put("method", combination.merger().method().name());
            facts.put("adapters", combination.adapters().size());
            facts.put("layers", merging.layers());
            facts.put("rank", merging.rank());
            facts.put("distance_to_sum", merging.distance());
            terminal.json(facts);
        } else {
            terminal.line(
                    "%s: %d adapters merged by %s, a plain LoRA of rank %d on %d layers",
                    out,
                    combination.adapters().size(),
                    combination.merger().method().name(),
                    merging.rank(),
                    merging.layers());
            terminal.line("its changes differ from the weighted sum of theirs by %.2f %%", 100 * merging.distance());
        }
        return Main.OK;
    }

    private Integer generate(String how, Map<String, Object> given) {
        if (!data.isEmpty()) {
            given.put("data", data);
        }
        if (wanted != null) {
            given.put("for", wanted);
        }
        Generation generation = Generation.read(how, settings, given);
        Generation.Generated made = generation.into(out, choice.model(), choice.options());
        if (json) {
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("out", out.toString());
            facts.put("method", generation.generator().method().name());
            facts.put("adapters", generation.adapters().size());
            facts.put("layers", made.layers());
            facts.put("rank", made.rank());
            facts.putAll(made.figures());
            terminal.json(facts);
        } else {
            terminal.line(
                    "%s: made by %s from %d tasks, a plain LoRA of rank %d on %d layers",
                    out,
                    generation.generator().method().name(),
                    generation.adapters().size(),
                    made.rank(),
                    made.layers());
            made.figures().forEach((name, value) -> terminal.line("%s %.4g", name.replace('_', ' '), value));
        }
        return Main.OK;
    }
}
