package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.List;

/**
 * Turns each text into a vector of length 1: the mean of its real tokens' hidden states, normalised, as the
 * sentence-transformers library does for all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv:1908.10084).
 */
public final class SentenceEmbedder extends Model {

    SentenceEmbedder(Backbone backbone) {
        super("", backbone);
        check(
                !backbone.config().family().isDecoder(),
                "embeddings are made with models of type bert and roberta, not '%s'",
                backbone.config().family().modelType());
    }

    /** Embeddings [B, D], float32. */
    @Override
    public Tensor forward(Input in) {
        ClassificationHead.refusePacking(in);
        try (Scope scope = Scope.open()) {
            Tensor hidden = backbone().forward(in).to(DType.FLOAT32); // [B, T, D]
            Tensor mask = in.attentionMask();
            Tensor mean;
            if (mask == null) {
                mean = hidden.mean(1, false); // [B, D]
            } else {
                Tensor real = mask.to(DType.FLOAT32).unsqueeze(-1); // [B, T, 1]
                mean = hidden.mul(real).sum(1, false).div(real.sum(1, false).clamp(1e-9, Float.MAX_VALUE));
            }
            return scope.promote(mean.div(mean.norm(-1, true).clamp(1e-12, Float.MAX_VALUE)));
        }
    }

    @Override
    public String architecture() {
        return config().family().baseClass();
    }

    @Override
    public List<Layer> heads() {
        return List.of();
    }

    @Override
    List<Linear> taskLayers() {
        return List.of();
    }
}
