package dev.espalier.cli;

import dev.espalier.compress.CompressionReport;
import dev.espalier.recipe.Compression;
import dev.espalier.recipe.Recipe;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** Carries out a recipe that compresses. */
@Command(
        name = "compress",
        description =
                "Compresses a model by a recipe: DIR/base is a model folder with the compressed weights, DIR/adapter a LoRA"
                        + " that makes up for the damage, where the method computes one.",
        footer = {
            "",
            "Example:  espalier compress eora --set model=org/name --set task.type=causal-lm \\",
            "              --set task.data=texts.jsonl --out out/small",
            "          espalier train lora --set model=out/small/base --set adapter={from: out/small/adapter} ..."
        })
final class CompressCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private RecipeChoice choice = new RecipeChoice();

    @Option(names = "--json", description = "print the result as one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Recipe recipe = choice.read();
        Compression done = Compression.of(recipe, terminal.loadOptions());
        if (json) {
            terminal.json(done.facts());
            return Main.OK;
        }
        CompressionReport report = done.report();
        List<List<String>> rows = new ArrayList<>();
        rows.add(List.of("layer", "shape", "bits", "error before", "error after"));
        for (CompressionReport.Row row : report.rows()) {
            rows.add(List.of(
                    row.path(),
                    "[" + row.out() + ", " + row.in() + "]",
                    figure("%.3f", row.bits()),
                    figure("%.4f", row.before()),
                    figure("%.4f", row.after())));
        }
        terminal.table(rows);
        terminal.line("");
        terminal.line(
                "%,d weights in %d layers at %.3f bits: %s; mean relative error of %ss %.4f%s",
                report.weights(),
                report.rows().size(),
                report.bits(),
                Terminal.bytes((long) (report.bits() * report.weights() / 8)),
                report.measure(),
                report.before(),
                done.adapter() == null ? "" : figure(", with the adapter %.4f", report.after()));
        report.notes().forEach(note -> terminal.line("%s", note));
        if (!done.before().isEmpty()) {
            terminal.line("held out, as it was:  %s", ProgressView.text(done.before()));
            terminal.line("          compressed:  %s", ProgressView.text(done.compressed()));
            if (done.adapter() != null) {
                terminal.line("          compensated: %s", ProgressView.text(done.compensated()));
            }
        }
        terminal.line("saved: %s%s", done.base(), done.adapter() == null ? "" : " and " + done.adapter());
        terminal.line(
                "try:   espalier train lora --set model=%s%s --set task.type=%s --set task.data=%s --out DIR",
                done.base(),
                done.adapter() == null ? "" : " --set 'adapter={from: %s}'".formatted(done.adapter()),
                recipe.task().type().key(),
                recipe.task().data());
        return Main.OK;
    }

    private static String figure(String format, double value) {
        return String.format(Locale.ROOT, format, value);
    }
}
