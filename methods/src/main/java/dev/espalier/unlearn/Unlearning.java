package dev.espalier.unlearn;

import dev.espalier.adapter.Part;
import dev.espalier.data.Batch;
import dev.espalier.task.Task;
import dev.espalier.tensor.Tensor;

/**
 * A method of unlearning: what is to be made small so that a batch is forgotten.
 *
 * @param <C> its settings
 */
public interface Unlearning<C> extends Part<C, Unlearning.Objective> {

    /** What training lowers. */
    interface Objective {

        /**
         * The loss on what is to be forgotten.
         *
         * @return a scalar that carries gradients: a mean over tokens or rows
         */
        Tensor forget(Forgetting step);

        /** What is added so that the rest is retained. */
        Retain retain();
    }

    /** A batch that is to be forgotten, and what the model makes of it. */
    interface Forgetting {

        /** The batch. */
        Batch batch();

        /** What the model as it stands makes of it, over its n target tokens. */
        Task.Outcome outcome();

        /** Log-probability of each target token [n], with gradients. */
        Tensor logProbabilities();

        /** The same of the model without its adapter, a constant. */
        Tensor originalLogProbabilities();
    }

    @Override
    default String verb() {
        return "unlearn";
    }
}
