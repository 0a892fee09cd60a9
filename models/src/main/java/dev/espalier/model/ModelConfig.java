package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import org.jspecify.annotations.Nullable;

/** What all families' configurations tell; names are those of {@code config.json}. */
public sealed interface ModelConfig permits Llama.Config, Gpt2.Config, Bert.Config {

    /** Which family. */
    Family family();

    /** Rows of the token table. */
    int vocabSize();

    /** Width of the hidden states. */
    int hiddenSize();

    /** Inner width of the MLP. */
    int intermediateSize();

    /** Number of transformer blocks. */
    int numHiddenLayers();

    /** Number of query heads. */
    int numAttentionHeads();

    /** Number of key heads, a divisor of the query heads. */
    default int numKeyValueHeads() {
        return numAttentionHeads();
    }

    /** Width of a head. */
    default int headDim() {
        return hiddenSize() / numAttentionHeads();
    }

    /** {@code max_position_embeddings}: positions the model was made for. */
    int maxPositionEmbeddings();

    /** Longest sequence the model was made for; a hard limit where positions are a table. */
    default int maxTokens() {
        return maxPositionEmbeddings();
    }

    /** Whether positions are rows of a table, so that no longer sequence can be computed at all. */
    boolean positionsAreTable();

    /** Standard deviation of new heads' weights. */
    double initializerRange();

    /** Whether the language-model head shares the token table. */
    boolean tieWordEmbeddings();

    /** The id that fills up sequences, if there is one. */
    @Nullable
    Integer padTokenId();

    /** Parameters of the token table and of two matrices of each MLP: no model of this configuration has fewer. */
    default long leastParameters() {
        long block = 2L * hiddenSize() * intermediateSize();
        return (long) vocabSize() * hiddenSize() + numHiddenLayers() * block;
    }

    /**
     * Refuses a size that no real model has, before anything is allocated for it.
     *
     * @return the size
     */
    static int size(String name, int value, int most) {
        check(
                value >= 1 && value <= most,
                "config.json: %s is %d; a model needs 1 to %d, so the file is damaged or no model",
                name,
                value,
                most);
        return value;
    }

    /** Refuses a probability outside [0, 1). */
    static double share(String name, double value) {
        check(value >= 0 && value < 1, "config.json: %s is %s; it must lie in [0, 1)", name, value);
        return value;
    }

    /** Refuses an epsilon that is not a small positive number. */
    static double epsilon(String name, double value) {
        check(value > 0 && value < 1, "config.json: %s is %s; it must lie in (0, 1), such as 1e-6", name, value);
        return value;
    }

    /** Whether a field is given as null, where that says something else than leaving it out. */
    static boolean isNull(Fields f, String name) {
        for (String given : f.names()) {
            if (given.equals(name)) {
                return !f.has(name);
            }
        }
        return false;
    }

    /** The largest sizes believed: above any published model, and far below what would exhaust memory by itself. */
    final class Limits {
        static final int VOCABULARY = 1 << 22;
        static final int WIDTH = 1 << 17;
        static final int INNER = 1 << 20;
        static final int LAYERS = 1024;
        static final int HEADS = 4096;
        static final int POSITIONS = 1 << 27;

        private Limits() {}
    }
}
