package dev.espalier.train;

import dev.espalier.tensor.Machine;
import java.time.Duration;
import java.time.Instant;

/** Time and tokens of this process's steps, and memory looked at now and then. */
final class Stopwatch {

    final Instant started = Instant.now();
    private final Duration used = Machine.processorTime();
    private long nanos;
    private long tokens;
    private long steps;
    private long resident;
    private long looked;

    void step(long duration, long stepTokens) {
        nanos += duration;
        tokens += stepTokens;
        steps++;
    }

    double tokensPerSecond() {
        return nanos == 0 ? 0 : tokens * 1e9 / nanos;
    }

    Duration left(long moreSteps) {
        return Duration.ofNanos(steps == 0 ? 0 : (long) ((double) nanos / steps * moreSteps));
    }

    double seconds() {
        return Duration.between(started, Instant.now()).toMillis() / 1000.0;
    }

    /** Of all threads; what else the machine does hardly changes it. */
    double processorSeconds() {
        return Machine.processorTime().minus(used).toMillis() / 1000.0;
    }

    /** Asking costs a system call and more: twice a second is enough. */
    long residentBytes() {
        long now = System.nanoTime();
        if (resident == 0 || now - looked > 500_000_000L) {
            resident = Machine.residentBytes();
            looked = now;
        }
        return resident;
    }
}
