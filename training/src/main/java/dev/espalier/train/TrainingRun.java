package dev.espalier.train;

import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import java.util.List;
import java.util.Map;

/**
 * What callbacks and loss terms may know of the training they take part in.
 *
 * @param model what learns
 * @param groups what trains, by group
 * @param optimizer what moves it
 * @param config how
 * @param totalSteps optimiser steps of the whole training
 */
public record TrainingRun(
        Module model, List<ParameterGroup> groups, Optimizer optimizer, TrainConfig config, long totalSteps) {

    /** Copies the list. */
    public TrainingRun {
        groups = List.copyOf(groups);
    }

    /** Everything that trains, by path. */
    public Map<String, Parameter> parameters() {
        return Parameters.of(groups);
    }
}
