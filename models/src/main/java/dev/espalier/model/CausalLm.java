package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.List;

/** Predicts each next token. */
public final class CausalLm extends Model {

    private final Linear lmHead; // [V, D]

    CausalLm(Backbone backbone) {
        super(backbone.config().family().keyPrefix(), backbone);
        ModelConfig c = backbone.config();
        check(
                c.family().isDecoder(),
                "models of type '%s' read in both directions and predict no next token; use them for classification or"
                        + " embedding",
                c.family().modelType());
        lmHead = child(
                "lm_head",
                c.tieWordEmbeddings()
                        ? new Linear(backbone.tokens().weightParameter())
                        : new Linear(c.hiddenSize(), c.vocabSize(), false, backbone.dtype()));
    }

    /** Logits [B, T, V] of the token after each. */
    @Override
    public Tensor forward(Input in) {
        try (Scope scope = Scope.open()) {
            return scope.promote(lmHead.forward(hidden(in)));
        }
    }

    /** Hidden states [B, T, D], for who computes logits of some tokens only: {@code lmHead().forward(rows)}. */
    public Tensor hidden(Input in) {
        return backbone().forward(in);
    }

    /** From hidden states to logits. */
    public Linear lmHead() {
        return lmHead;
    }

    @Override
    public String architecture() {
        return config().family().causalLmClass();
    }

    @Override
    public List<Layer> heads() {
        return List.of(lmHead);
    }

    @Override
    List<Linear> taskLayers() {
        return List.of();
    }
}
