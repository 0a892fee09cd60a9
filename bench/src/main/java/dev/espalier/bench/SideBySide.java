package dev.espalier.bench;

import dev.espalier.EspalierException;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.tensor.Machine;
import dev.espalier.train.RunFolder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * Runs Espalier and HF PEFT in turn on the same work, and writes what both came to.
 *
 * <pre>
 * java ... dev.espalier.bench.SideBySide MODEL.gguf PYTHON PAIRS STEPS CASE...   one or more of the cases, or all
 * java ... dev.espalier.bench.SideBySide table                                  writes docs/performance.md
 * </pre>
 *
 * <p>{@code bench/run} starts it. Each side is a process of its own, and the sides alternate, so that what else the machine does
 * falls on both. The results of a case are {@code bench/results/CASE.json}.
 */
public final class SideBySide {

    private static final Path RESULTS = Path.of("bench/results");

    /**
     * A piece of work.
     *
     * @param what it is, for the table
     * @param method by its name in the catalogue
     * @param supervised share of each row that has a loss
     * @param speed the ratio of tokens per second to be reached
     * @param memory the ratio of peak memory to stay below; 0 for none
     */
    private record Case(String what, String method, double supervised, double speed, double memory) {}

    private static final Map<String, Case> CASES = cases();

    private SideBySide() {}

    private static Map<String, Case> cases() {
        Map<String, Case> cases = new LinkedHashMap<>();
        cases.put("lora", new Case("LoRA, r 8", "lora", 1, 1.4, 0.5));
        cases.put("lora-chat", new Case("LoRA, r 8, loss on 40 % of the tokens", "lora", 0.4, 1.5, 0));
        cases.put("dora", new Case("DoRA, r 8", "dora", 1, 1.4, 0.4));
        cases.put("randlora", new Case("RandLoRA, r 32", "randlora", 1, 1.3, 0));
        cases.put("oft", new Case("OFT, blocks of 32", "oft", 1, 1.3, 0));
        cases.put("miss", new Case("MiSS, r 64", "bone", 1, 1.3, 0));
        cases.put("vera", new Case("VeRA, r 256", "vera", 1, 1.3, 0));
        return cases;
    }

    /** See the class. */
    public static void main(String[] args) throws IOException, InterruptedException {
        if (args.length == 1 && args[0].equals("table")) {
            table();
        } else if (args.length > 4) {
            List<String> asked = List.of(args).subList(4, args.length);
            for (String name : asked.contains("all") ? CASES.keySet() : asked) {
                Case work = CASES.get(name);
                if (work == null) {
                    throw new EspalierException("%s is no case; there are %s".formatted(name, CASES.keySet()));
                }
                run(name, work, args[0], args[1], Integer.parseInt(args[2]), args[3]);
            }
            table();
        } else {
            throw new EspalierException("say MODEL PYTHON PAIRS STEPS CASE..., or table");
        }
    }

    private static void run(String name, Case work, String model, String python, int pairs, String steps)
            throws IOException, InterruptedException {
        String supervised = Double.toString(work.supervised());
        List<String> ours = Child.java("dev.espalier.bench.AdapterStep", model, work.method(), steps, supervised);
        List<String> theirs = List.of(
                python,
                "bench/peers/peft_step.py",
                "--method",
                work.method(),
                "--steps",
                steps,
                "--supervised",
                supervised,
                "--threads",
                Integer.toString(Machine.physicalCores()));
        List<Map<String, Object>> espalier = new ArrayList<>();
        List<Map<String, Object>> peft = new ArrayList<>();
        for (int pair = 0; pair < pairs; pair++) {
            espalier.add(Child.json(ours, ProcessBuilder.Redirect.DISCARD));
            peft.add(Child.json(theirs, ProcessBuilder.Redirect.DISCARD));
            say("%s %d/%d: %s : %s tokens/s"
                    .formatted(
                            name,
                            pair + 1,
                            pairs,
                            espalier.get(pair).get("tokens_per_s"),
                            peft.get(pair).get("tokens_per_s")));
        }
        Map<String, Object> record = new LinkedHashMap<>();
        record.put("date", LocalDate.now(ZoneOffset.UTC).toString());
        record.put("versions", RunFolder.versions());
        record.put("espalier", espalier);
        record.put("peft", peft);
        Json.write(RESULTS.resolve(name + ".json"), record);
    }

    private static void table() throws IOException {
        StringBuilder text = new StringBuilder("""
                # Performance

                Made by `bench/run` from `bench/results`; not written by hand. SmolLM2-135M's shape in float32, an adapter on all
                seven linears of each layer, batches of 4 x 256 tokens, AdamW with clipping; a step is forward, backward, clip,
                update. Espalier and HF PEFT run in turn, each time as a process of its own; a row gives the medians of the
                processes, their spread, and the median of the pairs' ratios. Goals are what the project has set itself; a ratio
                that misses its goal is marked.

                | work | tokens/s | PEFT's | ratio | goal | peak MiB | PEFT's | ratio | goal | pairs | date |
                |---|---|---|---|---|---|---|---|---|---|---|
                """);
        String machine = "";
        for (Map.Entry<String, Case> entry : CASES.entrySet()) {
            Path file = RESULTS.resolve(entry.getKey() + ".json");
            if (Files.exists(file)) {
                Map<String, Object> record = Json.read(file);
                text.append(row(entry.getValue(), Fields.of(file.toString(), record)))
                        .append('\n');
                machine = String.valueOf(record.get("versions"));
            }
        }
        text.append("\nMachine and versions of the last row: ").append(machine).append("\n");
        Path notes = RESULTS.resolve("notes.md");
        if (Files.exists(notes)) {
            text.append('\n').append(Files.readString(notes));
        }
        AtomicFile.write(Path.of("docs/performance.md"), text.toString());
    }

    private static String row(Case work, Fields record) {
        double[] ours = of(record.fieldsList("espalier"), "tokens_per_s");
        double[] theirs = of(record.fieldsList("peft"), "tokens_per_s");
        double speed = median(ratios(ours, theirs));
        double[] ourMemory = of(record.fieldsList("espalier"), "peak_rss_mib");
        double[] theirMemory = of(record.fieldsList("peft"), "peak_rss_mib");
        double memory = median(ratios(ourMemory, theirMemory));
        return String.format(
                Locale.ROOT,
                "| %s | %s | %s | %.2f%s | %.1f | %.0f | %.0f | %.2f%s | %s | %d | %s |",
                work.what(),
                spread(ours),
                spread(theirs),
                speed,
                speed < work.speed() ? " (missed)" : "",
                work.speed(),
                median(ourMemory),
                median(theirMemory),
                memory,
                work.memory() > 0 && memory > work.memory() ? " (missed)" : "",
                work.memory() > 0 ? Double.toString(work.memory()) : "",
                ours.length,
                record.string("date"));
    }

    private static String spread(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        return String.format(Locale.ROOT, "%.0f (%.0f to %.0f)", median(values), sorted[0], sorted[sorted.length - 1]);
    }

    private static double[] ratios(double[] a, double[] b) {
        double[] ratios = new double[a.length];
        Arrays.setAll(ratios, i -> a[i] / b[i]);
        return ratios;
    }

    private static double median(double[] values) {
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        int middle = sorted.length / 2;
        return sorted.length % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    }

    private static double[] of(List<Fields> runs, String name) {
        return runs.stream().mapToDouble(run -> run.number(name)).toArray();
    }

    @SuppressWarnings("SystemOut") // a program for a terminal
    private static void say(String line) {
        System.out.println(line);
    }
}
