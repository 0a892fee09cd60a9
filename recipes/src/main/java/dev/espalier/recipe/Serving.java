package dev.espalier.recipe;

import dev.espalier.EspalierException;
import dev.espalier.data.Collator;
import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoding;
import dev.espalier.task.Task;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What an adapter costs when it answers, beside its base and merged into it, and whether the two agree.
 *
 * @param exampleMillis time for an example, in batches; the quickest of three passes
 * @param mergedExampleMillis the same merged, or null where it does not merge
 * @param mergeError largest absolute difference of a logit, or null where it does not merge
 * @param unmergeable why it does not merge, or null
 */
public record Serving(
        double exampleMillis,
        @Nullable Double mergedExampleMillis,
        @Nullable Double mergeError,
        @Nullable String unmergeable) {

    private static final int PASSES = 3;

    private record Pass(double exampleMillis, List<float[]> logits) {}

    /**
     * Runs a model over the first examples of a file.
     *
     * @param examples how many at most, at least 1
     */
    public static Serving of(LoadedModel loaded, Path data, Map<String, String> columns, int batch, int examples) {
        Dataset read = Dataset.read(data, DataOptions.of(columns, Judgement.shape(loaded)));
        List<Encoding> all = loaded.encoder().encode(read).items();
        Collator collator = new Collator(
                all.subList(0, Math.min(examples, all.size())),
                new Collator.Options(batch, PadId.of(loaded.pretrained()), Collator.Side.RIGHT, false, 0),
                new Seed(0));
        int rows = Math.min(examples, all.size());
        Task task = Judgement.task(loaded);
        task.model().train(false);
        Pass beside = pass(task, collator, rows);
        try {
            loaded.requireAdapter().merge();
        } catch (EspalierException e) {
            return new Serving(beside.exampleMillis(), null, null, e.getMessage());
        }
        try {
            Pass merged = pass(task, collator, rows);
            return new Serving(
                    beside.exampleMillis(), merged.exampleMillis(), gap(beside.logits(), merged.logits()), null);
        } finally {
            loaded.requireAdapter().unmerge();
        }
    }

    private static Pass pass(Task task, Collator collator, int rows) {
        List<float[]> logits = new ArrayList<>();
        double[] seconds = new double[PASSES];
        try (Grad off = Grad.off()) {
            for (int pass = -1; pass < PASSES; pass++) { // the first one warms up, and is kept
                long begin = System.nanoTime();
                for (int b = 0; b < collator.batches(0); b++) {
                    try (Scope scope = Scope.open()) {
                        float[] own = task.forward(collator.batch(new Collator.Cursor(0, b)))
                                .logits()
                                .floats();
                        if (pass < 0) {
                            logits.add(own);
                        }
                    }
                }
                if (pass >= 0) {
                    seconds[pass] = (System.nanoTime() - begin) / 1e9;
                }
            }
        }
        return new Pass(1e3 * Arrays.stream(seconds).min().orElseThrow() / rows, logits);
    }

    private static double gap(List<float[]> a, List<float[]> b) {
        double gap = 0;
        for (int i = 0; i < a.size(); i++) {
            for (int j = 0; j < a.get(i).length; j++) {
                gap = Math.max(gap, Math.abs((double) a.get(i)[j] - b.get(i)[j]));
            }
        }
        return gap;
    }
}
