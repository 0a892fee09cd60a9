package dev.espalier.train;

import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Plain lines to the log: every so many steps, the last one, and each evaluation. */
public final class LogProgress implements ProgressListener {

    private static final Logger LOG = LoggerFactory.getLogger(LogProgress.class);

    private final long every;

    /** @param every steps between lines, at least 1 */
    public LogProgress(long every) {
        this.every = Math.max(1, every);
    }

    @Override
    public void step(Progress p) {
        if (p.step() % every == 0 || p.step() == p.totalSteps()) {
            LOG.info(
                    "step {}/{}  loss {}  {} tokens/s  {} MiB  {} left",
                    p.step(),
                    p.totalSteps(),
                    String.format(Locale.ROOT, "%.4f", p.loss()),
                    Math.round(p.tokensPerSecond()),
                    p.residentBytes() >> 20,
                    clock(p.left().toSeconds()));
        }
    }

    @Override
    public void evaluated(long step, Map<String, Double> metrics) {
        LOG.info(
                "step {}  {}",
                step,
                metrics.entrySet().stream()
                        .map(e -> String.format(Locale.ROOT, "%s %.4f", e.getKey(), e.getValue()))
                        .collect(Collectors.joining("  ")));
    }

    private static String clock(long seconds) {
        return seconds >= 3600
                ? String.format(Locale.ROOT, "%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60)
                : String.format(Locale.ROOT, "%d:%02d", seconds / 60, seconds % 60);
    }
}
