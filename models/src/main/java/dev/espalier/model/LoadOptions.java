package dev.espalier.model;

import dev.espalier.hub.HubOptions;
import dev.espalier.hub.Progress;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Seed;

/**
 * How a model is loaded.
 *
 * @param precision element type of weights and activations
 * @param device where it goes
 * @param seed from which new heads are drawn
 * @param hub where models that are not on this machine come from
 * @param progress hears of downloads
 */
public record LoadOptions(Precision precision, Device device, Seed seed, HubOptions hub, Progress progress) {

    /** Precision by hardware, on the processor, seed 0, the hub of the environment, silently. */
    public static LoadOptions defaults() {
        return new LoadOptions(Precision.AUTO, Device.CPU, new Seed(0), HubOptions.fromEnvironment(), Progress.SILENT);
    }

    /** The same in another precision. */
    public LoadOptions withPrecision(Precision other) {
        return new LoadOptions(other, device, seed, hub, progress);
    }

    /** The same on another device. */
    public LoadOptions withDevice(Device other) {
        return new LoadOptions(precision, other, seed, hub, progress);
    }

    /** The same with another seed. */
    public LoadOptions withSeed(Seed other) {
        return new LoadOptions(precision, device, other, hub, progress);
    }

    /** The same with a listener to downloads. */
    public LoadOptions withProgress(Progress other) {
        return new LoadOptions(precision, device, seed, hub, other);
    }
}
