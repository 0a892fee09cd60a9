package dev.espalier.compare;

import dev.espalier.EspalierException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** Carries out jobs side by side: at most so many, and together in at most so much memory. Counts what is done. */
final class Pool {

    /** A job and the folder it is done in. */
    record Step(Job job, Path folder) {}

    /**
     * Jobs that follow each other.
     *
     * @param name what a person is shown
     * @param steps in order; what is done already is passed over, and after a failure the rest is left out
     * @param bytes of memory at most
     * @param ended told why a step failed, or null
     */
    record Chain(String name, List<Step> steps, long bytes, Consumer<@Nullable String> ended) {}

    private final Runner runner;
    private final int slots;
    private final long budget;
    private final StudyProgress progress;
    private final Map<Job.Kind, Integer> expected = new EnumMap<>(Job.Kind.class);
    private final Map<Job.Kind, Integer> ended = new EnumMap<>(Job.Kind.class);
    private final Map<Job.Kind, List<Double>> seconds = new EnumMap<>(Job.Kind.class);
    private final Set<Path> counted = new HashSet<>(); // outputs, each of which counts once
    private final Set<String> running = new java.util.LinkedHashSet<>();
    private List<Chain> pending = List.of();
    private long used;
    private int busy;
    private @Nullable Throwable fault;
    private boolean stopped;

    /**
     * @param slots jobs at once at most, at least 1
     * @param budget bytes of memory of all together; a job that needs more runs alone
     */
    Pool(Runner runner, int slots, long budget, StudyProgress progress) {
        this.runner = runner;
        this.slots = slots;
        this.budget = budget;
        this.progress = progress;
    }

    /** Says how many jobs of a kind there will be, or that there will be fewer. */
    synchronized void expect(Job.Kind kind, int more) {
        expected.merge(kind, more, Integer::sum);
    }

    /** Ends what runs; {@link #run} then throws. From any thread. */
    void stop() {
        synchronized (this) {
            stopped = true;
            notifyAll();
        }
        runner.stop();
    }

    /**
     * Carries out chains until all have ended.
     *
     * @throws EspalierException if it was stopped
     */
    void run(List<Chain> chains) {
        synchronized (this) {
            pending = new ArrayList<>(chains);
        }
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < Math.min(slots, chains.size()); i++) {
            Thread thread = new Thread(this::work, "study-" + i);
            thread.setDaemon(true);
            thread.start();
            threads.add(thread);
        }
        try {
            for (Thread thread : threads) {
                thread.join();
            }
        } catch (InterruptedException e) {
            stop();
            Thread.currentThread().interrupt();
        }
        synchronized (this) {
            if (fault instanceof RuntimeException e) {
                throw e;
            } else if (fault instanceof Error e) {
                throw e;
            } else if (stopped) {
                throw new EspalierException(
                        "the study was stopped after %d of %d processes; go on with the same command and --resume"
                                .formatted(sum(ended), Math.max(sum(expected), sum(ended))));
            }
        }
    }

    private void work() {
        for (Chain chain = take(); chain != null; chain = take()) {
            String failure = null;
            boolean over = false;
            try {
                for (Step step : chain.steps()) {
                    failure = failure == null ? step(chain, step) : failure;
                }
                over = true;
            } catch (InterruptedException e) {
                synchronized (this) {
                    stopped = true;
                }
            } catch (RuntimeException | Error e) {
                synchronized (this) {
                    fault = e;
                    stopped = true;
                }
                runner.stop();
            }
            synchronized (this) {
                used -= chain.bytes();
                busy--;
                if (over && !stopped) {
                    for (Step step : chain.steps()) {
                        count(step); // those left out will not be done any more
                    }
                    chain.ended().accept(failure);
                    show();
                }
                notifyAll();
            }
        }
    }

    private @Nullable String step(Chain chain, Step step) throws InterruptedException {
        String failure = null;
        if (!step.job().isDone(step.folder())) {
            String name = chain.name() + " (" + step.job().kind() + ")";
            synchronized (this) {
                running.add(name);
                show();
            }
            long begin = System.nanoTime();
            try {
                step.job().clear(step.folder());
                failure = runner.run(step.job(), step.folder());
            } finally {
                synchronized (this) {
                    running.remove(name);
                }
            }
            synchronized (this) {
                seconds.computeIfAbsent(step.job().kind(), k -> new ArrayList<>())
                        .add((System.nanoTime() - begin) / 1e9);
            }
        }
        synchronized (this) {
            count(step);
            show();
        }
        return failure;
    }

    private void count(Step step) {
        if (counted.add(step.job().output(step.folder()))) {
            ended.merge(step.job().kind(), 1, Integer::sum);
        }
    }

    private synchronized @Nullable Chain take() {
        while (!stopped && !pending.isEmpty()) {
            for (Chain chain : pending) {
                if (busy == 0 || used + chain.bytes() <= budget) {
                    pending.remove(chain);
                    used += chain.bytes();
                    busy++;
                    return chain;
                }
            }
            try {
                wait();
            } catch (InterruptedException e) {
                return null;
            }
        }
        return null;
    }

    private void show() {
        int total = Math.max(sum(expected), sum(ended));
        progress.update(new StudyProgress.State(sum(ended), total, List.copyOf(running), left()));
    }

    /** Each kind by the mean of its own, one that nothing is known of by the longest mean. */
    private @Nullable Duration left() {
        Map<Job.Kind, Double> means = new LinkedHashMap<>();
        seconds.forEach((kind, list) ->
                means.put(kind, list.stream().mapToDouble(s -> s).average().orElse(0)));
        if (!means.containsKey(Job.Kind.TRAIN)) {
            return null;
        }
        double longest = means.values().stream().mapToDouble(s -> s).max().orElse(0);
        double sum = 0;
        for (Map.Entry<Job.Kind, Integer> e : expected.entrySet()) {
            int open = Math.max(0, e.getValue() - ended.getOrDefault(e.getKey(), 0));
            sum += open * means.getOrDefault(e.getKey(), longest);
        }
        return Duration.ofSeconds(Math.round(sum / slots));
    }

    private static int sum(Map<Job.Kind, Integer> counts) {
        return counts.values().stream().mapToInt(i -> i).sum();
    }
}
