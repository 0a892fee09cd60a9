package dev.espalier.task;

import dev.espalier.data.Batch;
import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** Batches as models read them. */
public final class Inputs {

    private Inputs() {}

    /** A batch on the model's device. A packed batch says by its segments what is padding. */
    public static Input of(Batch batch, Model model) {
        Device device = model.backbone().tokens().weightParameter().tensor().device();
        boolean packed = batch.segmentIds() != null;
        return new Input(
                batch.inputIds().to(device),
                packed ? null : batch.attentionMask().to(device),
                batch.positionIds().to(device),
                to(device, batch.segmentIds()),
                to(device, batch.tokenTypeIds()),
                null);
    }

    private static @Nullable Tensor to(Device device, @Nullable Tensor tensor) {
        return tensor == null ? null : tensor.to(device);
    }
}
