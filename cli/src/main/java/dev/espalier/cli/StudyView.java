package dev.espalier.cli;

import dev.espalier.compare.StudyProgress;
import java.io.PrintWriter;
import java.util.Locale;

/** A study as it goes: a bar that is redrawn on a terminal, a line for each process that ends otherwise. */
final class StudyView implements StudyProgress, AutoCloseable {

    private static final int CELLS = 24;
    private static final int WIDEST = 110;

    private final PrintWriter err;
    private final boolean redraw;
    private int width;
    private int told = -1;

    /** @param redraw whether a line can be drawn over */
    StudyView(PrintWriter err, boolean redraw) {
        this.err = err;
        this.redraw = redraw;
    }

    @Override
    public void update(State s) {
        String left = s.left() == null ? "" : "  " + ProgressView.clock(s.left().toSeconds()) + " left";
        String figures = String.format(Locale.ROOT, "%d of %d%s", s.done(), s.total(), left);
        String running = s.running().isEmpty() ? "" : "  " + String.join(", ", s.running());
        if (redraw) {
            int full = CELLS * s.done() / Math.max(1, s.total());
            draw("[" + "#".repeat(full) + ".".repeat(CELLS - full) + "]  " + figures + running);
        } else if (s.done() != told) {
            told = s.done();
            err.println(figures + running);
        }
    }

    @Override
    public void note(String remark) {
        clear();
        err.println(remark);
    }

    @Override
    public void close() {
        clear();
    }

    private void draw(String whole) {
        String line = whole.length() > WIDEST ? whole.substring(0, WIDEST - 3) + "..." : whole;
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
