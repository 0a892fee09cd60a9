package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Tensor;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The places of a {@link Prompt} in one forward. */
record Ahead(@Nullable Prompt prompt, boolean first) {

    static Ahead of(@Nullable Prompt prompt, Input in) {
        long length = prompt == null ? 0 : prompt.length();
        check(
                length == 0 || in.segmentIds() == null,
                "a prompt stands before a row, and a packed row holds several texts; leave packing off");
        KvCache cache = in.cache();
        check(
                cache == null || cache.length() == 0 || cache.ahead() == length,
                "the cache was filled behind a prompt of %d places, and now there are %d; start with a new cache",
                cache == null ? 0 : cache.ahead(),
                length);
        return new Ahead(prompt, in.cached() == 0);
    }

    /** All of them: attention has so many keys more. */
    long places() {
        return prompt == null ? 0 : prompt.length();
    }

    /** Those that run through the network in this forward. */
    long queries() {
        return first && prompt instanceof Prompt.Embeddings ? places() : 0;
    }

    /** The others. */
    long ready() {
        return places() - queries();
    }

    /** Int64 [B, places + cached + T], or null where all are real. */
    @Nullable
    Tensor mask(Input in) {
        Tensor real = in.attentionMask();
        if (real == null || places() == 0) {
            return real;
        }
        return Tensor.cat(
                List.of(Tensor.ones(real.dtype(), real.size(0), places()).to(real.device()), real), 1);
    }

    /** Numbers of the tokens [B or 1, T] as they are behind a prompt, those of its running places in front. */
    Tensor positions(Tensor ofTokens) {
        if (places() == 0) {
            return ofTokens;
        }
        Tensor moved = ofTokens.add(Tensor.of(new long[] {places()}, 1).to(ofTokens.device()));
        Tensor own = Tensor.arange(queries()).to(ofTokens.device()).unsqueeze(0);
        return queries() == 0 ? moved : Tensor.cat(List.of(own.expand(moved.size(0), queries()), moved), 1);
    }

    /** Rows of the token table [B, T, D], behind those of the prompt. */
    Tensor words(Tensor ofTokens) {
        if (queries() > 0 && prompt instanceof Prompt.Embeddings virtual) {
            Tensor rows = virtual.rows().to(ofTokens.dtype()).unsqueeze(0); // [1, n, D]
            return Tensor.cat(List.of(rows.expand(ofTokens.size(0), queries(), ofTokens.size(2)), ofTokens), 1);
        }
        return ofTokens;
    }

    /** Zeros for the running places in front of int64 [B, T]. */
    Tensor zeros(Tensor ofTokens) {
        return queries() == 0 ? ofTokens : ofTokens.pad(queries(), 0);
    }

    /** A layer's keys and values [B, S, K, E] behind those that the prompt has ready for it. */
    KvCache.Seen keyValues(int layer, Tensor keys, Tensor values) {
        if (first && prompt instanceof Prompt.KeyValues ready) {
            return new KvCache.Seen(
                    before(keys, ready.rows().select(1, 2L * layer)),
                    before(values, ready.rows().select(1, 2L * layer + 1)));
        }
        return new KvCache.Seen(keys, values);
    }

    private static Tensor before(Tensor x, Tensor rows) {
        Tensor own = rows.to(x.dtype()).unsqueeze(0); // [1, n, K, E]
        return Tensor.cat(List.of(own.expand(x.size(0), own.size(1), own.size(2), own.size(3)), x), 1);
    }
}
