package dev.espalier.data;

import dev.espalier.tensor.Tensor;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * What one step of training or evaluation reads. The tensors are on the CPU and belong to the scope they were made in.
 *
 * <p>B rows of T tokens. A row is one encoding and padding, or, packed, several encodings one after the other.
 *
 * @param inputIds token ids [B, T] int64
 * @param attentionMask 1 for a token, 0 for padding [B, T] int64
 * @param positionIds each token's place in its own encoding, counted from 0; 0 for padding [B, T] int64
 * @param tokenTypeIds 1 for the tokens of a second text [B, T] int64, or null where all are 0
 * @param segmentIds packed rows only: which encoding of the row a token is of, counted from 0; -1 for padding [B, T]
 *     int64. Attention must not cross from one to another.
 * @param labels class ids [B] int64; scores [B] float32; or, for a language model, each target's own token and -100
 *     elsewhere [B, T] int64: the model shifts. Null where the examples have none.
 * @param targets what the loss is a mean over: rows for classes and scores, tokens for a language model
 * @param tokens tokens that are not padding
 * @param sources where the encodings come from, row by row
 */
public record Batch(
        Tensor inputIds,
        Tensor attentionMask,
        Tensor positionIds,
        @Nullable Tensor tokenTypeIds,
        @Nullable Tensor segmentIds,
        @Nullable Tensor labels,
        long targets,
        long tokens,
        List<String> sources) {

    /** The label that marks a token as no target, as in PyTorch's cross entropy. */
    public static final long IGNORED = -100;

    public Batch {
        sources = List.copyOf(sources);
    }
}
