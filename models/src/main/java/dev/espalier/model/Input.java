package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/**
 * What goes into a model.
 *
 * @param inputIds int64 [B, T]
 * @param attentionMask int64 [B, T] (with a cache: [B, cached + T]), 1 for real tokens and 0 for padding on either side;
 *     null: all are real
 * @param positionIds int64 [B, T], the place of each token within its own sequence, from 0; null: derived. RoBERTa adds its
 *     offset itself
 * @param segmentIds int64 [B, T], for packing: several sequences in one row, each a run of one number, -1 for padding;
 *     tokens see their own run only. Excludes attentionMask and cache
 * @param tokenTypeIds int64 [B, T], BERT's first or second text; null: all 0
 * @param cache keys and values of the tokens before, which the forward adds to; null: none
 */
public record Input(
        Tensor inputIds,
        @Nullable Tensor attentionMask,
        @Nullable Tensor positionIds,
        @Nullable Tensor segmentIds,
        @Nullable Tensor tokenTypeIds,
        @Nullable KvCache cache) {

    /** Checks shapes. */
    public Input {
        check(
                inputIds.dim() == 2 && inputIds.dtype() == DType.INT64,
                "input ids must be an int64 tensor [batch, tokens], found %s%s",
                inputIds.dtype(),
                Arrays.toString(inputIds.shape()));
        long cached = cache == null ? 0 : cache.length();
        same("an attention mask", attentionMask, inputIds, cached);
        same("position ids", positionIds, inputIds, 0);
        same("segment ids", segmentIds, inputIds, 0);
        same("token type ids", tokenTypeIds, inputIds, 0);
        check(
                segmentIds == null || (attentionMask == null && cache == null),
                "segment ids already say what is padding and leave no room for an attention mask or a cache");
    }

    /** Tokens without padding. */
    public static Input of(Tensor inputIds) {
        return new Input(inputIds, null, null, null, null, null);
    }

    /** Padded tokens. */
    public static Input of(Tensor inputIds, @Nullable Tensor attentionMask) {
        return new Input(inputIds, attentionMask, null, null, null, null);
    }

    /** One sequence. */
    public static Input of(int... ids) {
        return of(Tensor.of(Arrays.stream(ids).asLongStream().toArray(), 1, ids.length));
    }

    /** The same with positions. */
    public Input withPositionIds(Tensor positions) {
        return new Input(inputIds, attentionMask, positions, segmentIds, tokenTypeIds, cache);
    }

    /** The same, packed. */
    public Input withSegmentIds(Tensor segments) {
        return new Input(inputIds, attentionMask, positionIds, segments, tokenTypeIds, cache);
    }

    /** The same with token types. */
    public Input withTokenTypeIds(Tensor types) {
        return new Input(inputIds, attentionMask, positionIds, segmentIds, types, cache);
    }

    /** The same with other handles for its tensors. */
    Input map(UnaryOperator<Tensor> change) {
        return new Input(
                change.apply(inputIds),
                attentionMask == null ? null : change.apply(attentionMask),
                positionIds == null ? null : change.apply(positionIds),
                segmentIds == null ? null : change.apply(segmentIds),
                tokenTypeIds == null ? null : change.apply(tokenTypeIds),
                cache);
    }

    /** Sequences. */
    long batch() {
        return inputIds.size(0);
    }

    /** Tokens of each. */
    long tokens() {
        return inputIds.size(1);
    }

    /** Tokens of each that a cache holds already. */
    long cached() {
        return cache == null ? 0 : cache.length();
    }

    private static void same(String what, @Nullable Tensor tensor, Tensor ids, long extra) {
        check(
                tensor == null
                        || (tensor.dim() == 2
                                && tensor.size(0) == ids.size(0)
                                && tensor.size(1) == ids.size(1) + extra),
                "%s must have the shape [%d, %d], found %s",
                what,
                ids.size(0),
                ids.size(1) + extra,
                tensor == null ? "" : Arrays.toString(tensor.shape()));
    }
}
