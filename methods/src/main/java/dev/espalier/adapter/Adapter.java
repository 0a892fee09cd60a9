package dev.espalier.adapter;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/**
 * What stands in for the computation of one layer: a method's mathematics and its parameters, and nothing else. Being
 * active, merged, saved or named is the business of {@link AdaptedModel}.
 */
public interface Adapter {

    /**
     * The layer's output as the method changes it.
     *
     * @param x the layer's input: [.., in], or int64 ids [..] for an embedding
     * @param base the layer, or the layer with the adapters below this one
     * @return [.., out], a fresh tensor
     */
    Tensor forward(Tensor x, Base base);

    /**
     * All that is saved, trained or not, by the name in the file that follows the layer's path: {@code lora_A.weight}. The
     * order is fixed.
     */
    Map<String, Parameter> parameters();

    /** Frees the parameters, and whatever else the adapter holds. */
    default void close() {
        parameters().values().forEach(p -> p.tensor().close());
    }
}
