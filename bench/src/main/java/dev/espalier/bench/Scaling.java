package dev.espalier.bench;

import dev.espalier.io.AtomicFile;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.train.RunFolder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/**
 * What a LoRA step costs against rank, sequence length, rows of a batch, layers, and adapters that stand on one base: one of
 * them varies, the others stay at {@link #USUAL}.
 *
 * <p>The law beside it is that time grows as the products' multiplications do, through the usual point:
 *
 * <pre>{@code
 * tokens · layers · (4 P + 6 r S adapters + 6 T D) + targets · 4 V D
 * }</pre>
 *
 * P numbers in a layer's matrices, S the sum of their sides, T the sequence length, D the width, V the vocabulary. A frozen
 * matrix multiplies twice, forward and for the gradient of its input, an adapter's three times; of attention's scores half are
 * masked.
 */
final class Scaling {

    private static final String NAME = "scaling";

    /** A step's sizes. */
    private record Point(int r, int length, int rows, int layers, int adapters) {

        Point with(String name, int value) {
            return new Point(
                    name.equals("r") ? value : r,
                    name.equals("length") ? value : length,
                    name.equals("rows") ? value : rows,
                    name.equals("layers") ? value : layers,
                    name.equals("adapters") ? value : adapters);
        }

        Map<String, Object> sizes() {
            Map<String, Object> sizes = new LinkedHashMap<>();
            sizes.put("r", r);
            sizes.put("length", length);
            sizes.put("rows", rows);
            sizes.put("layers", layers);
            sizes.put("adapters", adapters);
            return sizes;
        }

        /** Multiplications of a step. */
        double law() {
            double matrices = 2.0 * 576 * 576 + 2.0 * 192 * 576 + 3.0 * 1536 * 576;
            double sides = 2 * (576 + 576) + 2 * (192 + 576) + 3.0 * (1536 + 576);
            double tokens = (double) length * rows;
            double layer = 4 * matrices + 6 * sides * r * adapters + 6.0 * length * 576;
            return tokens * layers * layer + SUPERVISED * tokens * 4 * 49152 * 576;
        }
    }

    /** One of the sizes, and its values, ascending. */
    private record Varied(String name, List<Integer> values) {}

    private static final Point USUAL = new Point(8, 128, 4, 4, 1);

    private static final List<Varied> VARIED = List.of(
            new Varied("r", List.of(8, 32, 128, 256)),
            new Varied("length", List.of(64, 128, 256, 512)),
            new Varied("rows", List.of(1, 2, 4, 8)),
            new Varied("layers", List.of(2, 4, 8, 16)),
            new Varied("adapters", List.of(1, 2, 4, 8)));

    private static final double SUPERVISED = 0.125; // the head's share would hide the layers'

    private Scaling() {}

    /** Measures all points so many times in turn and writes {@code bench/results/scaling.json}, a plot and a table. */
    static void run(int rounds) throws IOException, InterruptedException {
        Set<Point> points = new LinkedHashSet<>();
        VARIED.forEach(varied -> varied.values().forEach(value -> points.add(USUAL.with(varied.name(), value))));
        Map<Point, double[]> seconds = new LinkedHashMap<>();
        Path models = Files.createTempDirectory(NAME);
        try {
            for (int round = 0; round < rounds; round++) {
                for (Point point : points) {
                    double[] all = seconds.computeIfAbsent(point, p -> new double[rounds]);
                    all[round] = measure(models, point);
                    SideBySide.say("%s %d/%d: %s %.3f s".formatted(NAME, round + 1, rounds, point, all[round]));
                }
            }
        } finally {
            Folders.delete(models);
        }
        write(seconds);
    }

    private static double measure(Path models, Point point) throws IOException, InterruptedException {
        Path model = models.resolve(Integer.toString(point.layers()));
        if (!Files.exists(model)) {
            RandomModel.write(model, point.layers());
        }
        Map<String, Object> work = Cases.with(Cases.STEP, point.sizes());
        work.put("model", model.toString());
        work.put("supervised", SUPERVISED);
        Map<String, Object> answer = SideBySide.start(Case.Side.java("espalier", AdapterStep.class, work));
        return Fields.of("the answer", answer).number("step_mean_s");
    }

    // ---- what is written

    private static void write(Map<Point, double[]> seconds) throws IOException {
        Map<Point, Double> medians = new LinkedHashMap<>();
        seconds.forEach((point, all) -> medians.put(point, Performance.median(all)));
        double unit = medians.getOrDefault(USUAL, Double.NaN) / USUAL.law();
        List<Map<String, Object>> points = new ArrayList<>();
        seconds.forEach((point, all) -> {
            Map<String, Object> one = point.sizes();
            one.put("step_s", Arrays.stream(all).boxed().toList());
            one.put("law_s", unit * point.law());
            points.add(one);
        });
        Map<String, Object> record = new LinkedHashMap<>();
        record.put("date", LocalDate.now(ZoneOffset.UTC).toString());
        record.put("versions", RunFolder.versions());
        record.put("points", points);
        Json.write(SideBySide.RESULTS.resolve(NAME + ".json"), record);
        StringBuilder table = new StringBuilder("""
                ## Scaling

                ![Seconds a step, measured and expected](../bench/results/scaling.svg)

                A step of LoRA on all linears of a network of SmolLM2's shape with %s, an eighth of the tokens with a loss; one of
                these varies. Expected is what the products' multiplications ask for, through the usual point (`Scaling` has the
                formula). Measured %s; medians of %d rounds.

                | varied | seconds a step, measured / expected |
                |---|---|
                """.formatted(
                        USUAL, record.get("date"), seconds.values().iterator().next().length));
        StringBuilder plot = new StringBuilder();
        int column = 0;
        for (Varied varied : VARIED) {
            List<Integer> values = varied.values();
            List<Point> along =
                    values.stream().map(v -> USUAL.with(varied.name(), v)).toList();
            double[] measured = along.stream()
                    .mapToDouble(p -> medians.getOrDefault(p, Double.NaN))
                    .toArray();
            double[] expected = along.stream().mapToDouble(p -> unit * p.law()).toArray();
            plot.append(panel(column++, varied.name(), values, measured, expected));
            table.append("| ").append(varied.name()).append(" |");
            for (int i = 0; i < measured.length; i++) {
                table.append(" %d: %.2f / %.2f;".formatted(values.get(i), measured[i], expected[i]));
            }
            table.setLength(table.length() - 1);
            table.append(" |\n");
        }
        AtomicFile.write(SideBySide.RESULTS.resolve(NAME + ".svg"), svg(column, plot));
        AtomicFile.write(SideBySide.RESULTS.resolve(NAME + ".md"), table.toString());
    }

    private static final int WIDTH = 200;
    private static final int HEIGHT = 180;
    private static final int LEFT = 40;
    private static final int TOP = 40;

    private static String svg(int panels, StringBuilder content) {
        return """
                <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">
                <title>Seconds a step: measured (dots) and expected (lines)</title>
                <rect width="100%%" height="100%%" fill="#fff"/>
                <text x="%d" y="16">Seconds a step: measured (dots) and expected (lines)</text>
                %s</svg>
                """.formatted(panels * (WIDTH + LEFT) + LEFT, TOP + HEIGHT + 40, LEFT, content);
    }

    /** One quantity: its values side by side at equal distances, seconds from 0 upward. */
    private static String panel(int column, String name, List<Integer> values, double[] measured, double[] expected) {
        double most = Math.max(
                Arrays.stream(measured).max().orElse(1),
                Arrays.stream(expected).max().orElse(1));
        int x0 = LEFT + column * (WIDTH + LEFT);
        StringBuilder dots = new StringBuilder();
        StringBuilder line = new StringBuilder();
        for (int i = 0; i < measured.length; i++) {
            double x = x0 + WIDTH * (i + 0.5) / measured.length;
            line.append(String.format(Locale.ROOT, "%.1f,%.1f ", x, height(expected[i], most)));
            dots.append(String.format(
                    Locale.ROOT,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#0b6e4f\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>%n",
                    x,
                    height(measured[i], most),
                    x,
                    TOP + HEIGHT + 14,
                    values.get(i)));
        }
        return String.format(
                Locale.ROOT,
                """
                <path d="M%d,%d v%d h%d" fill="none" stroke="#888"/>
                <text x="%d" y="%d" text-anchor="end">%.2f</text>
                <text x="%d" y="%d" text-anchor="end">0</text>
                <text x="%d" y="%d" text-anchor="middle" font-weight="bold">%s</text>
                <polyline points="%s" fill="none" stroke="#c1440e" stroke-width="1.5"/>
                %s""",
                x0,
                TOP,
                HEIGHT,
                WIDTH,
                x0 - 4,
                TOP + 4,
                most,
                x0 - 4,
                TOP + HEIGHT,
                x0 + WIDTH / 2,
                TOP + HEIGHT + 30,
                name,
                line.toString().strip(),
                dots);
    }

    private static double height(double seconds, double most) {
        return TOP + HEIGHT * (1 - seconds / most);
    }
}
