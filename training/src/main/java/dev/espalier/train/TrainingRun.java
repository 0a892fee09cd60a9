package dev.espalier.train;

import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.task.Task;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What callbacks and loss terms may know of the training they take part in, and the one thing they may ask of it. */
public final class TrainingRun {

    private final Task task;
    private final List<ParameterGroup> groups;
    private final Map<String, Parameter> parameters = new LinkedHashMap<>();
    private final Optimizer optimizer;
    private final TrainConfig config;
    private final long totalSteps;

    TrainingRun(Task task, List<ParameterGroup> groups, Optimizer optimizer, TrainConfig config, long totalSteps) {
        this.task = task;
        this.groups = new ArrayList<>(groups);
        groups.forEach(group -> parameters.putAll(group.parameters()));
        this.optimizer = optimizer;
        this.config = config;
        this.totalSteps = totalSteps;
    }

    /** What is learnt. */
    public Task task() {
        return task;
    }

    /** What learns. */
    public Module model() {
        return task.model();
    }

    /** What trains, by group. */
    public List<ParameterGroup> groups() {
        return Collections.unmodifiableList(groups);
    }

    /** Everything that trains, by path. */
    public Map<String, Parameter> parameters() {
        return Collections.unmodifiableMap(parameters);
    }

    /** What moves it. */
    public Optimizer optimizer() {
        return optimizer;
    }

    /** How. */
    public TrainConfig config() {
        return config;
    }

    /** Optimiser steps of the whole training. */
    public long totalSteps() {
        return totalSteps;
    }

    /**
     * Trains more from the next step on: parameters that came into being during training. A callback that does so says it again
     * when it is {@link Callback#load loaded}.
     *
     * @throws dev.espalier.EspalierException if the optimiser's parameters are fixed
     */
    public void grow(ParameterGroup group) {
        optimizer.add(group);
        groups.add(group);
        parameters.putAll(group.parameters());
        group.parameters().values().forEach(p -> p.trainable(true));
    }
}
