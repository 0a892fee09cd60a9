package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.nn.Parameter;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Parameters that an optimiser treats alike.
 *
 * @param name for messages
 * @param parameters by path, in the order of updates
 * @param lrFactor multiplies the learning rate, at least 0: LoRA+ gives B sixteen times the rate of A
 * @param weightDecay at least 0
 */
public record ParameterGroup(String name, Map<String, Parameter> parameters, double lrFactor, double weightDecay) {

    /** Checks the ranges and copies the map. */
    public ParameterGroup {
        parameters = Collections.unmodifiableMap(new LinkedHashMap<>(parameters));
        check(
                lrFactor >= 0 && Double.isFinite(lrFactor),
                "the learning rate factor of group %s must be at least 0 and finite, found %s; try 1",
                name,
                lrFactor);
        check(
                weightDecay >= 0 && Double.isFinite(weightDecay),
                "the weight decay of group %s must be at least 0 and finite, found %s; try 0.01",
                name,
                weightDecay);
    }
}
