package dev.espalier.recipe;

import java.util.ArrayList;
import java.util.List;

/**
 * Whether an adapter merged into its base computes what it did beside it.
 *
 * @param maxLogitDifference largest absolute difference of a logit
 * @param equalPredictions texts whose class is the same
 * @param texts compared
 */
public record Agreement(double maxLogitDifference, int equalPredictions, int texts) {

    /** Runs a classifier over texts, merges its adapter, runs it again, and unmerges. */
    public static Agreement of(LoadedModel loaded, List<String> texts) {
        Predictor predictor = new Predictor(loaded);
        List<float[]> beside = predictor.logits(texts);
        loaded.requireAdapter().merge();
        List<float[]> merged = new ArrayList<>(predictor.logits(texts));
        loaded.requireAdapter().unmerge();
        double max = 0;
        int equal = 0;
        for (int i = 0; i < beside.size(); i++) {
            float[] a = beside.get(i);
            float[] b = merged.get(i);
            int bestA = 0;
            int bestB = 0;
            for (int c = 0; c < a.length; c++) {
                max = Math.max(max, Math.abs((double) a[c] - b[c]));
                bestA = a[c] > a[bestA] ? c : bestA;
                bestB = b[c] > b[bestB] ? c : bestB;
            }
            equal += bestA == bestB ? 1 : 0;
        }
        return new Agreement(max, equal, beside.size());
    }
}
