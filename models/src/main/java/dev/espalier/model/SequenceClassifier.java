package dev.espalier.model;

import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/** Gives a row of logits for each sequence: one a class, or a single number for regression. */
public final class SequenceClassifier extends Model {

    private final ClassificationHead head;
    private final List<String> labels;

    /** @param labels names of the outputs, in order */
    SequenceClassifier(Backbone backbone, List<String> labels) {
        super(backbone.config().family().keyPrefix(), backbone);
        this.labels = List.copyOf(labels);
        this.head = child("", backbone.classificationHead(labels.size()));
    }

    /** Logits [B, classes]. */
    @Override
    public Tensor forward(Input in) {
        try (Scope scope = Scope.open()) {
            return scope.promote(logits(features(in)));
        }
    }

    /** What the last layer receives [B, D]: the pooled first token, or a decoder's last. */
    public Tensor features(Input in) {
        ClassificationHead.refusePacking(in);
        try (Scope scope = Scope.open()) {
            return scope.promote(head.features(backbone().whole(in), in));
        }
    }

    /** Logits [B, classes] of {@link #features}. */
    public Tensor logits(Tensor features) {
        return head.output().forward(features);
    }

    /** Names of the outputs, in order. */
    public List<String> labels() {
        return labels;
    }

    /** Number of outputs. */
    public int classes() {
        return labels.size();
    }

    @Override
    public String architecture() {
        return config().family().classifierClass();
    }

    @Override
    public List<Layer> heads() {
        return List.copyOf(head.linears());
    }

    @Override
    List<Linear> taskLayers() {
        List<Linear> layers = new ArrayList<>(head.linears());
        if (backbone() instanceof Bert bert && bert.pooler() != null) {
            layers.add(bert.pooler());
        }
        return layers;
    }
}
