package dev.espalier.model;

import static dev.espalier.Check.check;
import static java.util.Collections.nCopies;

import dev.espalier.io.Fields;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What all families' configurations tell; names are those of {@code config.json}. */
public sealed interface ModelConfig permits Llama.Config, Gpt2.Config, Bert.Config {

    /** Which family. */
    Family family();

    /** Rows of the token table. */
    int vocabSize();

    /** Width of the hidden states. */
    int hiddenSize();

    /** Inner width of the MLP; of the widest where blocks differ. */
    int intermediateSize();

    /** The same for each block. */
    default List<Integer> intermediateSizes() {
        return nCopies(numHiddenLayers(), intermediateSize());
    }

    /** Number of transformer blocks. */
    int numHiddenLayers();

    /** Number of query heads; the most where blocks differ. */
    int numAttentionHeads();

    /** The same for each block. */
    default List<Integer> attentionHeads() {
        return nCopies(numHiddenLayers(), numAttentionHeads());
    }

    /** Number of key heads, a divisor of the query heads; the most where blocks differ. */
    default int numKeyValueHeads() {
        return numAttentionHeads();
    }

    /** Whether all blocks are of the same size, as in all but pruned models. */
    default boolean isUniform() {
        return intermediateSizes().stream().distinct().count() == 1
                && attentionHeads().stream().distinct().count() == 1;
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
        long inner = intermediateSizes().stream().mapToLong(Integer::longValue).sum();
        return hiddenSize() * (vocabSize() + 2L * inner);
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

    /**
     * Sizes of blocks: a number for all of them, or a list with one for each, as in models that were pruned.
     *
     * @return one for each block
     */
    static List<Integer> sizes(String where, Fields f, String name, int layers, int most) {
        List<Integer> given =
                f.any(name) instanceof List<?> ? f.integers(name, List.of()) : nCopies(layers, f.integer(name));
        check(
                given.size() == layers,
                "%s: %s lists %d blocks and num_hidden_layers is %d; they must agree",
                where,
                name,
                given.size(),
                layers);
        given.forEach(size -> size(name, size, most));
        return given;
    }

    /** {@code head_dim} of a model whose blocks have different numbers of heads, else width by heads. */
    static int headDim(String where, Fields f, int hidden, List<Integer> heads) {
        int most = Collections.max(heads);
        check(
                f.has("head_dim") || (heads.stream().distinct().count() == 1 && hidden % most == 0),
                "%s: hidden_size is %d and num_attention_heads %s; the second must divide the first unless head_dim is given",
                where,
                hidden,
                heads.stream().distinct().count() == 1 ? most : heads);
        return f.integer("head_dim", hidden / most);
    }

    /** What config.json says where blocks are of different sizes. */
    static Object written(List<Integer> sizes) {
        return sizes.stream().distinct().count() == 1 ? sizes.get(0) : sizes;
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
