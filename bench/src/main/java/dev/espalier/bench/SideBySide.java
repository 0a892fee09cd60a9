package dev.espalier.bench;

import dev.espalier.EspalierException;
import dev.espalier.bench.Case.Measure;
import dev.espalier.bench.Case.Side;
import dev.espalier.io.Json;
import dev.espalier.train.RunFolder;
import java.io.IOException;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Runs two sides in turn on the same work, Espalier and a peer or Espalier in two ways, and writes what both came to.
 *
 * <pre>
 * java ... dev.espalier.bench.SideBySide CASE...   one or more of the cases, all, scaling, or table, which only writes the tables
 * </pre>
 *
 * <p>{@code bench/run} starts it and says what the environment must hold. Each side is a process of its own, and the sides
 * alternate, so that what else the machine does falls on both. The results of a case are {@code bench/results/CASE.json}, the
 * table of all is {@code docs/performance.md}.
 */
public final class SideBySide {

    static final Path RESULTS = Path.of("bench/results");

    private SideBySide() {}

    /** See the class. */
    public static void main(String[] args) throws IOException, InterruptedException {
        Map<String, Case> cases = Cases.all();
        List<String> asked = List.of(args);
        if (asked.equals(List.of("scaling"))) {
            Scaling.run(number("PAIRS", 5));
        } else if (!asked.equals(List.of("table"))) {
            for (String name : asked.contains("all") ? cases.keySet() : asked) {
                Case work = cases.get(name);
                if (work == null) {
                    throw new EspalierException("%s is no case; there are %s".formatted(name, cases.keySet()));
                }
                run(work);
            }
        }
        Performance.write(cases.values());
    }

    private static void run(Case work) throws IOException, InterruptedException {
        if (work.leftOut() != null) {
            say("%s is left out: %s".formatted(work.name(), work.leftOut()));
            return;
        }
        List<Map<String, Object>> first = new ArrayList<>();
        List<Map<String, Object>> second = new ArrayList<>();
        int pairs = number("PAIRS", 5);
        Measure shown = work.compared().get(0);
        for (int pair = 0; pair < pairs; pair++) {
            first.add(start(work.first()));
            second.add(start(work.second()));
            say("%s %d/%d: %s : %s %s"
                    .formatted(
                            work.name(),
                            pair + 1,
                            pairs,
                            first.get(pair).get(shown.key()),
                            second.get(pair).get(shown.key()),
                            shown.unit()));
        }
        Map<String, Object> record = new LinkedHashMap<>();
        record.put("date", LocalDate.now(ZoneOffset.UTC).toString());
        record.put("versions", RunFolder.versions());
        record.put(work.first().name(), first);
        record.put(work.second().name(), second);
        Json.write(RESULTS.resolve(work.name() + ".json"), record);
    }

    /** Runs a side once. */
    static Map<String, Object> start(Side side) throws IOException, InterruptedException {
        Map<String, Object> work = new LinkedHashMap<>(side.work());
        work.putIfAbsent("steps", number("STEPS", 5));
        work.put("threads", Case.threads());
        List<String> command = new ArrayList<>(side.command());
        command.add(Json.text(work));
        String threads = Integer.toString(Case.threads());
        // Asked for or not: what a library makes of no variable at all is part of what is compared.
        Map<String, String> variables = System.getenv("THREADS") == null
                ? Map.of()
                : Map.of("OMP_NUM_THREADS", threads, "OPENBLAS_NUM_THREADS", threads);
        return Child.json(command, variables);
    }

    private static int number(String variable, int usual) {
        return Integer.parseInt(System.getenv().getOrDefault(variable, Integer.toString(usual)));
    }

    @SuppressWarnings("SystemOut") // a program for a terminal
    static void say(String line) {
        System.out.println(line);
    }
}
