package dev.espalier.cli;

import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Merge;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** Folds an adapter into its base. */
@Command(
        name = "merge",
        description =
                "Folds an adapter into its base, as a Hugging Face model folder; reloads it and says how the two differ.",
        footer = {"", "Example:  espalier merge --adapter out/tickets --out out/tickets-merged"})
final class MergeCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

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
}
