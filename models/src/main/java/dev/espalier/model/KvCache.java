package dev.espalier.model;

import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/**
 * Keys and values of tokens already seen, so that a next token costs one token's work.
 *
 * <p>Room is doubled when it runs out: copying amounts to a constant a token. Used with gradients off; one sequence or one
 * batch at a time; whoever made it closes it.
 */
public final class KvCache implements AutoCloseable {

    /** Keys and values [B, room, K, E] of one layer, of which the first {@code length} tokens are filled. */
    private static final class Entry {
        private Tensor keys;
        private Tensor values;

        Entry(Tensor keys, Tensor values) {
            this.keys = keys;
            this.values = values;
        }
    }

    /** All tokens of one layer up to the present: each [B, S, K, E]. */
    record Seen(Tensor keys, Tensor values) {}

    private final long firstRoom;
    private final List<Entry> layers = new ArrayList<>();
    private long length;
    private long ahead; // places of a prompt, which come first

    /** An empty cache with room for 256 tokens at first. */
    public KvCache() {
        this(256);
    }

    /** @param room tokens to make room for at first */
    public KvCache(long room) {
        this.firstRoom = Math.max(1, room);
    }

    /** Tokens held of each sequence. */
    public long length() {
        return length;
    }

    /** Adds T tokens' keys and values [B, T, K, E] of one layer; answers with all since the first. */
    Seen add(int layer, Tensor keys, Tensor values) {
        long tokens = keys.size(1);
        long needed = ahead + length + tokens;
        if (layer == layers.size()) {
            long room = Math.max(firstRoom, needed);
            layers.add(new Entry(roomFor(keys, room), roomFor(values, room)));
        }
        Entry entry = layers.get(layer);
        if (entry.keys.size(1) < needed) {
            long room = Math.max(needed, 2 * entry.keys.size(1));
            entry.keys = grow(entry.keys, room);
            entry.values = grow(entry.values, room);
        }
        entry.keys.narrow(1, ahead + length, tokens).copy_(keys);
        entry.values.narrow(1, ahead + length, tokens).copy_(values);
        return new Seen(entry.keys.narrow(1, 0, needed), entry.values.narrow(1, 0, needed));
    }

    /** Counts the tokens that all layers have added, and the places of a prompt that came with the first of them. */
    void advance(long tokens, long prompt) {
        length += tokens;
        ahead = prompt;
    }

    /** Places of the prompt that the first tokens came with. */
    long ahead() {
        return ahead;
    }

    private Tensor grow(Tensor full, long room) {
        Tensor larger = roomFor(full, room);
        larger.narrow(1, 0, ahead + length).copy_(full.narrow(1, 0, ahead + length));
        full.close();
        return larger;
    }

    private static Tensor roomFor(Tensor like, long room) {
        return Tensor.empty(like.dtype(), like.size(0), room, like.size(2), like.size(3))
                .to(like.device())
                .keep();
    }

    @Override
    public void close() {
        for (Entry entry : layers) {
            entry.keys.close();
            entry.values.close();
        }
        layers.clear();
        length = 0;
        ahead = 0;
    }
}
