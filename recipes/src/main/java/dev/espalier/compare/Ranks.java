package dev.espalier.compare;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.compare.Job.Solved;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.ToLongFunction;
import org.jspecify.annotations.Nullable;

/** Finds the rank with which a method trains a given number of parameters. */
final class Ranks {

    private static final int LARGEST = 1024;

    private Ranks() {}

    /**
     * The ranks that come nearest in ratio. They are tried from 1 on: one by one to 32, by eights to 128, then by
     * thirty-twos, for a count may fall as rank rises (OFT's blocks); ranks that a method refuses are left out.
     *
     * @param given settings of rank with a recipe's values, which keep their proportion; the first is the one that is tried
     * @param wanted trained parameters, at least 1
     * @param parameters how many train with some ranks; throws {@link EspalierException} for those that are refused
     * @throws EspalierException if no rank at all will do
     */
    static Solved solve(Map<String, Integer> given, long wanted, ToLongFunction<Map<String, Integer>> parameters) {
        if (given.isEmpty()) {
            return new Solved(Map.of(), parameters.applyAsLong(Map.of()));
        }
        Solved best = null;
        @Nullable EspalierException refusal = null;
        int far = 0; // counts in a row that are far too large, and rise
        long before = Long.MAX_VALUE;
        for (int rank = 1; rank <= LARGEST && far < 3; rank += rank < 32 ? 1 : rank < 128 ? 8 : 32) {
            Map<String, Integer> ranks = scaled(given, rank);
            long count;
            try {
                count = parameters.applyAsLong(ranks);
            } catch (EspalierException e) {
                refusal = e;
                continue;
            }
            if (best == null || distance(count, wanted) < distance(best.trainableParameters(), wanted)) {
                best = new Solved(ranks, count);
            }
            far = count > 4 * wanted && count > before ? far + 1 : 0;
            before = count;
        }
        check(
                best != null,
                "no rank from 1 to %d can be trained: %s",
                LARGEST,
                refusal == null ? "none was tried" : String.valueOf(refusal.getMessage()));
        return java.util.Objects.requireNonNull(best);
    }

    /** The first becomes the rank, the others keep their proportion to it. */
    private static Map<String, Integer> scaled(Map<String, Integer> given, int rank) {
        double first = given.values().iterator().next();
        Map<String, Integer> ranks = new LinkedHashMap<>();
        given.forEach((name, value) -> ranks.put(name, Math.max(1, (int) Math.round(value * rank / first))));
        return ranks;
    }

    /** |ln(a / b)|. */
    private static double distance(long a, long b) {
        return Math.abs(Math.log(Math.max(1, a) / (double) b));
    }
}
