package dev.espalier.cli;

import dev.espalier.train.Progress;
import dev.espalier.train.ProgressListener;
import java.io.PrintWriter;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** Training as it goes: a bar that is redrawn on a terminal, plain lines otherwise. */
final class ProgressView implements ProgressListener {

    private static final int CELLS = 24;
    private static final long REDRAW_NANOS = 100_000_000L;

    private final PrintWriter err;
    private final boolean redraw;
    private final long every;
    private long drawn;
    private int width;

    /**
     * @param redraw whether a line can be drawn over
     * @param every steps between plain lines
     */
    ProgressView(PrintWriter err, boolean redraw, long every) {
        this.err = err;
        this.redraw = redraw;
        this.every = every;
    }

    @Override
    public void step(Progress p) {
        boolean last = p.step() == p.totalSteps();
        if (redraw) {
            long now = System.nanoTime();
            if (last || now - drawn > REDRAW_NANOS) {
                drawn = now;
                draw(bar(p) + "  " + figures(p));
            }
        } else if (last || p.step() % every == 0) {
            err.println(figures(p));
        }
    }

    @Override
    public void evaluated(long step, Map<String, Double> metrics) {
        clear();
        err.println("step " + step + "  held out: " + text(metrics));
    }

    @Override
    public void close() {
        clear();
    }

    /** Metrics on a line. */
    static String text(Map<String, Double> metrics) {
        return metrics.entrySet().stream()
                .map(e -> String.format(Locale.ROOT, "%s %.4f", e.getKey(), e.getValue()))
                .collect(Collectors.joining("  "));
    }

    private static String bar(Progress p) {
        int full = (int) (CELLS * p.step() / Math.max(1, p.totalSteps()));
        return "[" + "#".repeat(full) + ".".repeat(CELLS - full) + "]";
    }

    private static String figures(Progress p) {
        return String.format(
                Locale.ROOT,
                "step %d/%d  loss %.4f  %,.0f tokens/s  %s  %s left",
                p.step(),
                p.totalSteps(),
                p.loss(),
                p.tokensPerSecond(),
                Terminal.bytes(p.residentBytes()),
                clock(p.left().toSeconds()));
    }

    static String clock(long seconds) {
        return seconds < 3600
                ? String.format(Locale.ROOT, "%d:%02d", seconds / 60, seconds % 60)
                : String.format(Locale.ROOT, "%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
    }

    private void draw(String line) {
        err.print("\r" + line + " ".repeat(Math.max(0, width - line.length())));
        err.flush();
        width = line.length();
    }

    private void clear() {
        if (redraw && width > 0) {
            err.print("\r" + " ".repeat(width) + "\r");
            err.flush();
            width = 0;
        }
    }
}
