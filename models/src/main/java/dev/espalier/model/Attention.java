package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Who looks at whom: decided once a forward, applied in every layer.
 *
 * <p>A mask is made only where nothing cheaper gives the same. None is needed without padding, nor for causal models with
 * padding on the right, where real tokens never look at padding. Packed sequences are attended to one by one, which costs the
 * sum of their squared lengths and not the square of the sum. Where a mask is needed it is made as an additive one, which the
 * kernels would otherwise make of a boolean one in each layer.
 */
final class Attention {

    /** Added to the scores of what must not be seen. Finite, so that a row that sees nothing is no NaN. */
    private static final double HIDDEN = -1e38;

    /** A packed sequence: tokens [start, start + length) of one row. */
    private record Run(long row, long start, long length) {}

    private final boolean causal;
    private final @Nullable Tensor mask; // [B or 1, 1, T or 1, S], added to the scores
    private final List<Run> runs; // of packed rows in order; empty if nothing is packed
    private final long newest; // the keys looked at, counted from the last; all: Long.MAX_VALUE

    private Attention(boolean causal, @Nullable Tensor mask, List<Run> runs, long newest) {
        this.causal = causal;
        this.mask = mask;
        this.runs = runs;
        this.newest = newest;
    }

    /**
     * Element type in which attention is computed. libtorch's bfloat16 attention on processors is many times slower than its
     * float32 one.
     */
    static DType computedIn(DType weights, Device device) {
        return weights == DType.BFLOAT16 && device.kind() == Device.Kind.CPU ? DType.FLOAT32 : weights;
    }

    /** Every token sees every real token. */
    static Attention bidirectional(Input in, Ahead ahead, DType dtype) {
        if (in.segmentIds() != null) {
            return new Attention(false, null, runs(in.segmentIds()), Long.MAX_VALUE);
        }
        Tensor real = ahead.mask(in);
        if (real == null || real.ne(0).all()) {
            return new Attention(false, null, List.of(), Long.MAX_VALUE);
        }
        return new Attention(false, additive(visible(real), dtype), List.of(), Long.MAX_VALUE);
    }

    /**
     * Every token sees itself and real tokens before it.
     *
     * @param window how many of them, itself included; 0: all
     */
    static Attention causal(Input in, Ahead ahead, int window, DType dtype) {
        long tokens = ahead.queries() + in.tokens();
        long cached = ahead.ready() + in.cached();
        long seen = cached + tokens;
        boolean windowed = window > 0 && seen > window;
        Device device = in.inputIds().device();
        if (in.segmentIds() != null) {
            List<Run> runs = runs(in.segmentIds());
            long longest = runs.stream().mapToLong(Run::length).max().orElse(0);
            Tensor band = windowed && longest > window ? band(0, longest, window, device) : null;
            return new Attention(band == null, band == null ? null : additive(band, dtype), runs, Long.MAX_VALUE);
        }
        Tensor real = ahead.mask(in);
        boolean padded = real != null && !paddedOnTheRight(real);
        if (!padded && tokens == 1) {
            return new Attention(false, null, List.of(), windowed ? window : Long.MAX_VALUE);
        }
        if (!padded && !windowed && cached == 0) {
            return new Attention(true, null, List.of(), Long.MAX_VALUE);
        }
        Tensor band = band(cached, seen, windowed ? window : 0, device);
        Tensor allowed = padded ? band.logicalAnd(visible(Objects.requireNonNull(real))) : band;
        return new Attention(false, additive(allowed, dtype), List.of(), Long.MAX_VALUE);
    }

    /**
     * softmax(q kᵀ · scale) v over what may be seen.
     *
     * @param q [B, T, H, E]
     * @param k [B, S, K, E], K a divisor of H
     * @param v as k
     * @param dropout share of attention weights to drop
     * @return [B, T, H·E]
     */
    Tensor apply(Tensor q, Tensor k, Tensor v, double scale, double dropout) {
        long tokens = q.size(1);
        long width = q.size(2) * q.size(3);
        if (!runs.isEmpty()) {
            List<Tensor> results = new ArrayList<>();
            for (Run run : runs) {
                results.add(one(part(q, run), part(k, run), part(v, run), ownMask(run), scale, dropout));
            }
            return Tensor.cat(results, 1).reshape(q.size(0), tokens, width); // [1, B·T, H·E] before
        }
        if (k.size(1) > newest) {
            k = k.narrow(1, k.size(1) - newest, newest);
            v = v.narrow(1, v.size(1) - newest, newest);
        }
        if (tokens == 1 && q.size(2) != k.size(2)) {
            return grouped(q, k, v, scale).reshape(q.size(0), 1, width);
        }
        return one(q, k, v, mask, scale, dropout);
    }

    private Tensor one(Tensor q, Tensor k, Tensor v, @Nullable Tensor m, double scale, double dropout) {
        return Tensor.scaledDotProductAttention(
                        q.transpose(1, 2), // [B, H, T, E]
                        k.transpose(1, 2), // [B, K, S, E]
                        v.transpose(1, 2),
                        m,
                        causal,
                        scale,
                        dropout)
                .transpose(1, 2)
                .flatten(2, 3);
    }

    /** One new token: the heads that share a key take the place of queries, so that no key is copied for each of them. */
    private Tensor grouped(Tensor q, Tensor k, Tensor v, double scale) {
        long heads = k.size(2);
        return Tensor.scaledDotProductAttention(
                q.reshape(q.size(0), heads, q.size(2) / heads, q.size(3)), // [B, K, H/K, E]
                k.transpose(1, 2), // [B, K, S, E]
                v.transpose(1, 2),
                mask,
                false,
                scale,
                0);
    }

    private @Nullable Tensor ownMask(Run run) {
        return mask == null ? null : mask.narrow(2, 0, run.length).narrow(3, 0, run.length);
    }

    private static Tensor part(Tensor x, Run run) {
        return x.narrow(0, run.row, 1).narrow(1, run.start, run.length);
    }

    /** Boolean [1, 1, S - cached, S]: which keys lie before a query, or with it, and within the window. */
    private static Tensor band(long cached, long seen, int window, Device device) {
        Tensor query = Tensor.arange(cached, seen).to(device).unsqueeze(1); // [T, 1]
        Tensor key = Tensor.arange(seen).to(device); // [S]
        Tensor allowed = key.le(query);
        if (window > 0) {
            Tensor last =
                    Tensor.arange(cached - window, seen - window).to(device).unsqueeze(1); // hidden
            allowed = allowed.logicalAnd(key.gt(last));
        }
        return allowed.unsqueeze(0).unsqueeze(0);
    }

    /** Boolean [B, 1, 1, S]. */
    private static Tensor visible(Tensor attentionMask) {
        return attentionMask.ne(0).unsqueeze(1).unsqueeze(1);
    }

    private static Tensor additive(Tensor allowed, DType dtype) {
        return Tensor.zeros(dtype, 1).to(allowed.device()).maskedFill(allowed.logicalNot(), HIDDEN);
    }

    /** Whether in every row the real tokens come first. */
    private static boolean paddedOnTheRight(Tensor attentionMask) {
        long tokens = attentionMask.size(1);
        if (tokens == 1) {
            return attentionMask.ne(0).all();
        }
        Tensor real = attentionMask.ne(0).to(DType.INT32);
        Tensor before = real.narrow(1, 0, tokens - 1);
        Tensor after = real.narrow(1, 1, tokens - 1);
        return before.ge(after).all();
    }

    private static List<Run> runs(Tensor segmentIds) {
        long[] ids = segmentIds.longs();
        int tokens = (int) segmentIds.size(1);
        List<Run> runs = new ArrayList<>();
        for (int row = 0; row < segmentIds.size(0); row++) {
            Set<Long> closed = new HashSet<>();
            int start = 0;
            for (int t = 1; t <= tokens; t++) {
                long id = ids[row * tokens + start];
                if (t == tokens || ids[row * tokens + t] != id) {
                    check(
                            id < 0 || closed.add(id),
                            "segment %d of row %d comes in several pieces; a segment must be one run of tokens",
                            id,
                            row);
                    runs.add(new Run(row, start, t - start));
                    start = t;
                }
            }
        }
        return runs;
    }

    /** Places of tokens within their own packed sequences: int64 [B, T]. */
    static Tensor positionsWithinRuns(Tensor segmentIds) {
        int tokens = (int) segmentIds.size(1);
        long[] positions = new long[(int) segmentIds.numel()];
        for (Run run : runs(segmentIds)) {
            for (int i = 0; i < run.length; i++) {
                positions[(int) (run.row * tokens + run.start) + i] = i;
            }
        }
        return Tensor.of(positions, segmentIds.shape()).to(segmentIds.device());
    }
}
