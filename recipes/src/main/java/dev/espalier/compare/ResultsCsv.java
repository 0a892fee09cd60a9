package dev.espalier.compare;

import dev.espalier.compare.RunResult.Measured;
import dev.espalier.io.AtomicFile;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/** {@code results.csv}: a line a run, for spreadsheets. */
final class ResultsCsv {

    private static final List<String> COLUMNS = List.of(
            "row",
            "method",
            "kind",
            "seed",
            "status",
            "failure",
            "learning_rate",
            "rank",
            "metric",
            "test_loss",
            "steps",
            "tokens",
            "tokens_per_second",
            "seconds",
            "processor_seconds",
            "peak_resident_bytes",
            "optimizer_bytes",
            "trainable_parameters",
            "adapter_bytes",
            "merge_error",
            "example_millis",
            "merged_example_millis",
            "forgetting",
            "command");

    private ResultsCsv() {}

    /** Writes the runs of all rows, atomically. */
    static void write(StudyResult result, Path file) {
        AtomicFile.write(file, text(result));
    }

    static String text(StudyResult result) {
        List<List<@Nullable Object>> lines = new ArrayList<>();
        lines.add(new ArrayList<>(COLUMNS));
        for (MethodResult row : result.methods()) {
            row.runs().forEach(run -> lines.add(line(row, run)));
        }
        return lines.stream()
                .map(line -> line.stream().map(ResultsCsv::cell).collect(Collectors.joining(",")))
                .collect(Collectors.joining("\r\n", "", "\r\n")); // RFC 4180
    }

    private static List<@Nullable Object> line(MethodResult row, RunResult run) {
        List<@Nullable Object> line = new ArrayList<>();
        line.add(row.name());
        line.add(row.method());
        line.add(row.kind());
        line.add(run.seed());
        line.add(run.status());
        line.add(run.failure());
        line.add(row.learningRate());
        line.add(row.rank());
        Measured m = run.measured();
        if (m == null) {
            while (line.size() < COLUMNS.size() - 1) {
                line.add(null);
            }
        } else {
            line.add(m.metric());
            line.add(m.testLoss());
            line.add(m.steps());
            line.add(m.tokens());
            line.add(m.tokensPerSecond());
            line.add(m.seconds());
            line.add(m.processorSeconds());
            line.add(m.peakResidentBytes());
            line.add(m.optimizerBytes());
            line.add(m.trainableParameters());
            line.add(m.adapterBytes());
            line.add(m.mergeError());
            line.add(m.exampleMillis());
            line.add(m.mergedExampleMillis());
            line.add(m.forgetting());
        }
        line.add(run.command());
        return line;
    }

    private static String cell(@Nullable Object value) {
        String text = value == null ? "" : String.valueOf(value);
        return text.matches("[^\",\r\n]*") ? text : "\"" + text.replace("\"", "\"\"") + "\"";
    }
}
