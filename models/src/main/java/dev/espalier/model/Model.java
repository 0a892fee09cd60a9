package dev.espalier.model;

import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.tensor.Tensor;
import java.util.List;

/**
 * A backbone under a head: the counterpart of Hugging Face's classes named {@code ..For..}, whose checkpoint keys are the
 * paths of its parameters.
 */
public abstract sealed class Model extends Module permits CausalLm, SequenceClassifier, SentenceEmbedder {

    private final Backbone backbone;

    /** @param prefix under which the backbone's keys stand; empty: at the top */
    Model(String prefix, Backbone backbone) {
        this.backbone = child(prefix, backbone);
    }

    /** Logits, or embeddings; the one tensor that is left in the caller's scope. */
    public abstract Tensor forward(Input in);

    /** The Hugging Face class it is the counterpart of, such as {@code LlamaForCausalLM}. */
    public abstract String architecture();

    /** Output layers, which adapters on "all linear layers" leave alone. */
    public abstract List<Layer> heads();

    /** Layers that may be missing in a checkpoint, because they are made anew for each task. */
    abstract List<Linear> taskLayers();

    /** The network below the head. */
    public final Backbone backbone() {
        return backbone;
    }

    /** The configuration the backbone was built by. */
    public final ModelConfig config() {
        return backbone.config();
    }
}
