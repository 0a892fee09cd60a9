package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.DoubleSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Parameters that an optimiser treats alike.
 *
 * @param name for messages
 * @param parameters by path, in the order of updates
 * @param rate multiplies the learning rate, at least 0, asked anew at each step: LoRA+ gives B sixteen times the rate of A
 * @param weightDecay at least 0
 * @param optimizer moves these instead of the run's optimiser; null for that one
 */
public record ParameterGroup(
        String name,
        Map<String, Parameter> parameters,
        DoubleSupplier rate,
        double weightDecay,
        Optimizer.@Nullable Config optimizer) {

    /** Checks the ranges and copies the map. */
    public ParameterGroup {
        parameters = Collections.unmodifiableMap(new LinkedHashMap<>(parameters));
        check(
                weightDecay >= 0 && Double.isFinite(weightDecay),
                "the weight decay of group %s must be at least 0 and finite, found %s; try 0.01",
                name,
                weightDecay);
    }

    /** A group that moves at a constant multiple of the learning rate. */
    public ParameterGroup(String name, Map<String, Parameter> parameters, double lrFactor, double weightDecay) {
        this(name, parameters, () -> lrFactor, weightDecay, null);
        lrFactor();
    }

    /** A group whose multiple of the learning rate is asked for at each step. */
    public ParameterGroup(String name, Map<String, Parameter> parameters, DoubleSupplier rate, double weightDecay) {
        this(name, parameters, rate, weightDecay, null);
    }

    /** The same for other parameters. */
    public ParameterGroup withParameters(Map<String, Parameter> others) {
        return new ParameterGroup(name, others, rate, weightDecay, optimizer);
    }

    /** What multiplies the learning rate at this step. */
    public double lrFactor() {
        double factor = rate.getAsDouble();
        check(
                factor >= 0 && Double.isFinite(factor),
                "the learning rate factor of group %s must be at least 0 and finite, found %s; try 1",
                name,
                factor);
        return factor;
    }
}
