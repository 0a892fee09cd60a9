package dev.espalier.bench;

import dev.espalier.bench.Case.Group;
import dev.espalier.bench.Case.Measure;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** {@code docs/performance.md}: what {@code bench/results} holds, as tables. */
final class Performance {

    private static final Path TABLE = Path.of("docs/performance.md");

    private Performance() {}

    static void write(Collection<Case> cases) throws IOException {
        StringBuilder text = new StringBuilder("""
                # Performance

                Made by `bench/run` from `bench/results`; not written by hand. Unless a row says otherwise a step is forward, backward,
                clipping and AdamW's update of LoRA on all seven linears of each layer of SmolLM2-135M's shape in float32, on batches
                of 4 x 256 tokens. Both sides run in turn, each time as a process of its own; a row gives the medians of the
                processes, their spread, and the median of the pairs' ratios, the left side's number divided by the right one's.
                Tokens are real ones, without padding. Goals are what the project has set itself; a ratio that misses its goal is
                marked.
                """);
        String machine = "";
        for (Group group : Group.values()) {
            text.append("""

                    ## %s

                    | work | measure | %s | %s | ratio | goal | pairs | date |
                    |---|---|---|---|---|---|---|---|
                    """.formatted(group.title, group.first, group.second));
            for (Case work : cases) {
                Path file = SideBySide.RESULTS.resolve(work.name() + ".json");
                if (work.group() == group && Files.exists(file)) {
                    Map<String, Object> record = Json.read(file);
                    rows(text, work, Fields.of(file.toString(), record));
                    machine = String.valueOf(record.get("versions"));
                } else if (work.group() == group) {
                    text.append("| %s | %s | | | | | | |\n"
                            .formatted(work.what(), work.leftOut() == null ? "not measured yet" : work.leftOut()));
                }
            }
        }
        text.append("\nMachine and versions of the last row: ").append(machine).append("\n");
        for (String more : List.of("scaling.md", "notes.md")) {
            Path file = SideBySide.RESULTS.resolve(more);
            if (Files.exists(file)) {
                text.append('\n').append(Files.readString(file));
            }
        }
        AtomicFile.write(TABLE, text.toString());
    }

    private static void rows(StringBuilder text, Case work, Fields record) {
        List<Fields> first = record.fieldsList(work.first().name());
        List<Fields> second = record.fieldsList(work.second().name());
        String what = work.what();
        for (Measure measure : work.compared()) {
            double[] ours = of(first, measure.key());
            double[] theirs = of(second, measure.key());
            double[] ratios = new double[ours.length];
            Arrays.setAll(ratios, i -> ours[i] / theirs[i]);
            double ratio = median(ratios);
            text.append(String.format(
                    Locale.ROOT,
                    "| %s | %s | %s | %s | %.2f%s | %s | %d | %s |%n",
                    what,
                    measure.unit(),
                    spread(ours),
                    spread(theirs),
                    ratio,
                    measure.reached(ratio) ? "" : " (missed)",
                    measure.goal(),
                    ours.length,
                    record.string("date")));
            what = "";
        }
    }

    private static double[] of(List<Fields> runs, String name) {
        return runs.stream().mapToDouble(run -> run.number(name)).toArray();
    }

    private static String spread(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        return "%s (%s to %s)".formatted(shown(median(values)), shown(sorted[0]), shown(sorted[sorted.length - 1]));
    }

    /** Three digits, and all before the point. */
    private static String shown(double value) {
        return String.format(Locale.ROOT, value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : "%.2f", value);
    }

    static double median(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        int middle = sorted.length / 2;
        return sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }
}
