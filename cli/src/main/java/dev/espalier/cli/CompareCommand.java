package dev.espalier.cli;

import dev.espalier.compare.MethodResult;
import dev.espalier.compare.MethodResult.Difference;
import dev.espalier.compare.MethodResult.Summary;
import dev.espalier.compare.Study;
import dev.espalier.compare.StudyResult;
import dev.espalier.compare.StudyRun;
import dev.espalier.report.Report;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** Many methods on equal terms. */
@Command(
        name = "compare",
        description =
                "Compares methods on equal terms: the same model, data, seeds and budget, each run a process of its own."
                        + " Ctrl-C ends the runs; --resume goes on with what is missing.",
        footer = {
            "",
            "Example:  espalier compare minilm --out out/minilm",
            "          espalier compare study.yaml --set seeds=[0] --set \"methods=[lora, dora]\" --out out/study"
        })
final class CompareCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Parameters(
            paramLabel = "STUDY",
            description = "a YAML file, or a study that comes with Espalier: minilm, smollm2-extraction")
    private String study = "";

    @Option(
            names = "--set",
            paramLabel = "KEY=VALUE",
            description = "a setting in place of the study's, such as seeds=[0]; may be given several times")
    private List<String> settings = new ArrayList<>();

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "the folder for runs and results")
    private Path out = Path.of("");

    @Option(
            names = "--resume",
            description = "go on with the study in the output folder: what is missing, broken or new")
    private boolean resume;

    @Option(names = "--json", description = "print the results as one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        StudyRun run = new StudyRun(Study.read(study, settings), out);
        StudyResult result;
        try (StudyView view = terminal.studyView()) {
            Interruption.stopBy(run::requestStop);
            result = run.run(resume, view);
        } finally {
            Interruption.stopBy(null);
        }
        Report.write(result, out.resolve("report.html"));
        if (json) {
            terminal.json(result.json());
            return Main.OK;
        }
        terminal.table(table(result));
        StudyResult.Terms terms = result.terms();
        terminal.line("");
        terminal.line(
                "%s on %,d test examples, %d seeds, equal %s (%,.0f %s); a difference to %s is set in brackets where its %.0f %% interval holds 0",
                terms.metric(),
                terms.testExamples(),
                terms.seeds().size(),
                terms.equal(),
                terms.value(),
                terms.equal().unit(),
                terms.reference(),
                100 * terms.confidence());
        terminal.line("results:  %s", out.resolve("results.json"));
        terminal.line("report:   %s", out.resolve("report.html"));
        return Main.OK;
    }

    private static List<List<String>> table(StudyResult result) {
        List<List<String>> rows = new ArrayList<>();
        rows.add(List.of(
                "method",
                "metric",
                "error",
                "difference",
                "interval",
                "trained",
                "processor",
                "memory",
                "rate",
                "failed"));
        for (MethodResult method : result.methods()) {
            Summary s = method.summary();
            int failed = method.runs().size() - (s == null ? 0 : s.runs());
            Difference d = s == null ? null : s.difference();
            String rate = String.format(Locale.ROOT, "%.3g", method.learningRate())
                    + (method.edge() == MethodResult.Edge.NONE ? "" : " (edge)");
            rows.add(
                    s == null
                            ? List.of(method.name(), "", "", "", "", "", "", "", rate, failed + " of " + failed)
                            : List.of(
                                    method.name(),
                                    number(s.metric()),
                                    number(s.standardError()),
                                    d == null ? "" : d.insideNoise() ? "(" + signed(d.mean()) + ")" : signed(d.mean()),
                                    d == null ? "" : signed(d.low()) + " to " + signed(d.high()),
                                    Terminal.count(s.trainableParameters()),
                                    String.format(Locale.ROOT, "%.1f", s.processorSeconds()),
                                    Terminal.bytes(s.peakResidentBytes()),
                                    rate,
                                    failed == 0
                                            ? ""
                                            : failed + " of " + method.runs().size()));
        }
        return rows;
    }

    private static String number(@Nullable Double value) {
        return value == null ? "" : String.format(Locale.ROOT, "%.4f", value);
    }

    private static String signed(double value) {
        return String.format(Locale.ROOT, "%+.4f", value);
    }
}
