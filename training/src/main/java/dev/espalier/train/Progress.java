package dev.espalier.train;

import java.time.Duration;

/**
 * How far a training is.
 *
 * @param step optimiser steps done
 * @param totalSteps of the whole training
 * @param loss mean loss since the last logged line
 * @param learningRate of the step
 * @param tokensPerSecond of this process, padding not counted, evaluation and checkpoints not either
 * @param residentBytes of this process, looked at twice a second at most
 * @param left by the mean time of this process's steps
 */
public record Progress(
        long step,
        long totalSteps,
        double loss,
        double learningRate,
        double tokensPerSecond,
        long residentBytes,
        Duration left) {}
