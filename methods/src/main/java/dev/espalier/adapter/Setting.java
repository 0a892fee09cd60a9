package dev.espalier.adapter;

import dev.espalier.task.Task;
import dev.espalier.tensor.Seed;
import dev.espalier.train.TrainConfig;

/**
 * The training that a part is made for.
 *
 * @param model the host, with the adapter active
 * @param adapter what trains
 * @param task what is learnt
 * @param config how long and how; the optimiser in it may still be the usual one
 * @param seed of which a part takes the stream of its own name
 * @param calibration the training data one example at a time, for parts that look at the network before it trains
 */
public record Setting(
        AdaptedModel model, Attached adapter, Task task, TrainConfig config, Seed seed, Calibration calibration) {

    /** A training whose parts look at no data. */
    public Setting(AdaptedModel model, Attached adapter, Task task, TrainConfig config, Seed seed) {
        this(model, adapter, task, config, seed, Calibration.NONE);
    }
}
