package dev.espalier.task;

import dev.espalier.data.Batch;
import java.util.Map;

/** Collects a model's results over batches, and turns them into numbers. */
public interface Evaluator {

    /** Runs the model on a batch; call it without gradients and in evaluation mode, as {@link Evaluation#run} does. */
    void add(Batch batch);

    /** The metrics of all batches so far; always with {@code loss}, the mean over targets. */
    Map<String, Double> metrics();
}
