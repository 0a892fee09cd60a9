package dev.espalier.cli;

import dev.espalier.diagnose.Report;
import dev.espalier.recipe.Examination;
import dev.espalier.recipe.LoadedModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** Looks at what an adapter did to the weights. */
@Command(
        name = "diagnose",
        description = "Examines an adapter layer by layer, and may write a repaired one.",
        footer = {
            "",
            "Example:  espalier diagnose intruder-dimensions --adapter out/tickets --set k=10",
            "          espalier diagnose intruder-dimensions --adapter out/tickets --set lambda=0.7 --repair out/repaired",
            "          espalier diagnose lora-limits --adapter out/tickets --data tickets.csv"
        })
final class DiagnoseCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Parameters(
            arity = "0..1",
            paramLabel = "RECIPE",
            description = "what to look for: intruder-dimensions (the default), lora-limits, or a YAML file")
    private String recipe = "intruder-dimensions";

    @Option(
            names = "--set",
            paramLabel = "KEY=VALUE",
            description = "a setting of the method in place of the recipe's, such as k=10; may be given several times")
    private List<String> settings = new ArrayList<>();

    @Option(
            names = "--data",
            paramLabel = "FILE",
            description = "texts for the model to read, for diagnoses of what its layers receive")
    private @Nullable Path data;

    @Option(
            names = "--column",
            paramLabel = "PART=NAME",
            description = "which column of the file plays which part, such as text=body; may be given several times")
    private Map<String, String> columns = new LinkedHashMap<>();

    @Option(names = "--repair", paramLabel = "DIR", description = "write a repaired adapter to this folder")
    private @Nullable Path repair;

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Path adapter = choice.requireAdapter();
        Examination examination = Examination.read(recipe, settings);
        try (LoadedModel loaded = choice.open()) {
            Report report = data == null ? examination.of(loaded) : examination.of(loaded, data, columns);
            Examination.Repaired repaired = repair == null ? null : examination.repair(loaded, adapter, repair);
            if (json) {
                Map<String, Object> facts = new LinkedHashMap<>();
                facts.put("method", examination.diagnosis().method().name());
                facts.putAll(facts(report));
                if (repaired != null) {
                    Map<String, Object> about = new LinkedHashMap<>();
                    about.put("out", String.valueOf(repair));
                    about.put("rank", repaired.rank());
                    about.put("norm_ratio", repaired.normRatio());
                    about.putAll(facts(repaired.after()));
                    facts.put("repaired", about);
                }
                terminal.json(facts);
                return Main.OK;
            }
            table(report);
            if (repaired != null) {
                terminal.line("");
                terminal.line(
                        "%s: repaired, a plain LoRA of rank %d; its changes have %.4f of the norm that they had",
                        String.valueOf(repair), repaired.rank(), repaired.normRatio());
                terminal.line("now: %s", totals(repaired.after()));
                terminal.line(
                        "to compare with scaling alone: espalier merge linear --adapters %s --weights %.4f --out DIR",
                        adapter, repaired.normRatio());
            }
        }
        return Main.OK;
    }

    private static Map<String, Object> facts(Report report) {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("totals", report.totals());
        facts.put(
                "rows",
                report.rows().stream()
                        .map(row -> {
                            Map<String, @Nullable Object> fields = new LinkedHashMap<>();
                            for (int c = 0; c < row.size(); c++) {
                                fields.put(report.columns().get(c), row.get(c));
                            }
                            return fields;
                        })
                        .toList());
        if (!report.beside().isEmpty()) {
            Map<String, Object> further = new LinkedHashMap<>();
            report.beside().forEach((heading, table) -> further.put(heading, facts(table)));
            facts.put("beside", further);
        }
        return facts;
    }

    private void table(Report report) {
        List<List<String>> rows = new ArrayList<>();
        rows.add(report.columns().stream().map(c -> c.replace('_', ' ')).toList());
        report.rows()
                .forEach(row -> rows.add(row.stream().map(DiagnoseCommand::cell).toList()));
        terminal.table(rows);
        terminal.line("");
        terminal.line("%s", totals(report));
        report.beside().forEach((heading, further) -> {
            terminal.line("");
            terminal.line("%s", heading);
            table(further);
        });
    }

    private static String totals(Report report) {
        return report.totals().entrySet().stream()
                .map(e -> e.getKey().replace('_', ' ') + " " + cell(e.getValue()))
                .collect(Collectors.joining("  "));
    }

    private static String cell(@Nullable Object value) {
        if (value == null) {
            return "";
        }
        if (value instanceof Double number) {
            return String.format(Locale.ROOT, "%.3f", number);
        }
        if (value instanceof List<?> list) {
            return list.stream()
                    .map(v -> v instanceof Double d ? String.format(Locale.ROOT, "%.2f", d) : cell(v))
                    .collect(Collectors.joining(" "));
        }
        return String.valueOf(value);
    }
}
