package dev.espalier.train;

import dev.espalier.data.Batch;

/**
 * Where in the training an event happens.
 *
 * @param run the training
 * @param step the optimiser step, counted from 1
 * @param microStep which of the step's batches, counted from 0; after the backward pass, the last
 * @param batch that batch; its tensors live until the step ends
 * @param learningRate of the step, before the groups' factors
 */
public record StepContext(TrainingRun run, long step, int microStep, Batch batch, double learningRate) {}
