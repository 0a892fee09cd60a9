package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Machine;

/** Element type of a model's weights and activations. */
public enum Precision {
    /** bfloat16 where the device computes it in hardware and the checkpoint has no finer weights; else float32. */
    AUTO,
    /** float32. */
    FP32,
    /** bfloat16; refused on a processor that would emulate it, some hundred times slower. */
    BF16;

    DType resolve(Device device, TensorSource source) {
        boolean hardware = device.kind() == Device.Kind.CUDA || Machine.hasBfloat16();
        return switch (this) {
            case FP32 -> DType.FLOAT32;
            case BF16 -> {
                check(
                        hardware,
                        "precision bf16 was asked for, but this processor (%s) has no bfloat16 arithmetic; use fp32 or auto",
                        Machine.cpu());
                yield DType.BFLOAT16;
            }
            case AUTO -> hardware && isCoarse(source) ? DType.BFLOAT16 : DType.FLOAT32;
        };
    }

    /** Whether matrices are stored in 16 bits or fewer. */
    private static boolean isCoarse(TensorSource source) {
        return source.tensors().values().stream()
                .filter(i -> i.shape().size() == 2)
                .allMatch(Precision::isCoarse);
    }

    private static boolean isCoarse(TensorInfo info) {
        return info.bytes() <= 2 * info.numel();
    }
}
