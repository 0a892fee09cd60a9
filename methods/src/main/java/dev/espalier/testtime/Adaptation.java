package dev.espalier.testtime;

import dev.espalier.model.Input;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/** A model that adapts to the batches it is shown. */
public interface Adaptation extends AutoCloseable {

    /**
     * What the model says of a batch.
     *
     * @return probabilities [B, classes], each row adding up to 1, in the caller's scope
     */
    Tensor predict(Input batch);

    /** What is worth knowing about the last batch, by name. */
    default Map<String, Double> figures() {
        return Map.of();
    }

    /** Leaves the model as it was before. */
    @Override
    void close();
}
