package dev.espalier.train;

import static dev.espalier.Check.check;

import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** What trains, taken together. */
public final class Parameters {

    /** Smaller gradients are joined before their norm is taken: one call instead of hundreds. */
    private static final long SMALL = 1 << 17;

    private Parameters() {}

    /** By path, groups in order. */
    static Map<String, Parameter> of(List<ParameterGroup> groups) {
        Map<String, Parameter> all = new LinkedHashMap<>();
        groups.forEach(group -> all.putAll(group.parameters()));
        return all;
    }

    /** Each once, floating, and nothing else in the model gathering gradients that nobody would use or drop. */
    static void verify(List<ParameterGroup> groups, Module model) {
        Set<Parameter> known = Collections.newSetFromMap(new IdentityHashMap<>());
        for (ParameterGroup group : groups) {
            group.parameters().forEach((name, p) -> {
                check(known.add(p), "the parameter %s is to be trained twice; put it into one group only", name);
                check(
                        p.tensor().dtype().isFloatingPoint(),
                        "the parameter %s is %s and cannot be trained; leave it out",
                        name,
                        p.tensor().dtype());
            });
        }
        check(!known.isEmpty(), "there is nothing to train: no parameter was given; attach an adapter or train a head");
        model.namedParameters()
                .forEach((name, p) -> check(
                        !p.isTrainable() || known.contains(p),
                        "the model's parameter %s gathers gradients but is not among those to train; freeze it, or train it"
                                + " too",
                        name));
    }

    /**
     * The length of all gradients as one vector, NaN or infinite if any element is.
     *
     * @param clip gradients longer than this are scaled down to it, all alike; 0 for no bound
     */
    public static double normAndClip(Iterable<Parameter> parameters, double clip) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            List<Tensor> gradients = new ArrayList<>();
            List<Tensor> small = new ArrayList<>();
            double squares = 0;
            for (Parameter p : parameters) {
                Tensor gradient = p.tensor().grad();
                if (gradient == null) {
                    continue;
                }
                gradients.add(gradient);
                if (gradient.numel() <= SMALL) {
                    small.add(gradient.reshape(-1));
                } else {
                    double norm = gradient.norm().item();
                    squares += norm * norm;
                }
            }
            if (!small.isEmpty()) {
                double norm = Tensor.cat(small, 0).norm().item();
                squares += norm * norm;
            }
            double norm = Math.sqrt(squares);
            double scale = clip / (norm + 1e-6); // the epsilon is torch's clip_grad_norm_
            if (clip > 0 && scale < 1) {
                gradients.forEach(gradient -> gradient.mul_(scale));
            }
            return norm;
        }
    }

    static long elements(Iterable<Parameter> parameters) {
        long n = 0;
        for (Parameter p : parameters) {
            n += p.tensor().numel();
        }
        return n;
    }

    static long bytes(Iterable<Parameter> parameters) {
        long n = 0;
        for (Parameter p : parameters) {
            n += p.tensor().bytes();
        }
        return n;
    }
}
