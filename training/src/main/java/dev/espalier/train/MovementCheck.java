package dev.espalier.train;

import dev.espalier.EspalierException;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;

/**
 * Sees to it that everything that should train does: the silent failure of adapters that hang on nothing.
 *
 * <p>A tensor is judged after three steps in which it could have moved (its rate was above zero, and it was not frozen).
 * Three, because LoRA's A has a zero gradient until B has left zero. It fails
 * <ul>
 *   <li>if all its gradients were zero or absent, and its values are those at the start, at most scaled (weight decay
 *       scales, and is no sign of life); or
 *   <li>if a gradient came that had to change it, by rate and rounding, and not one bit did.
 * </ul>
 */
final class MovementCheck implements AutoCloseable {

    private static final int STEPS = 3;

    /** Elements of a tensor whose values are compared; the gradient is looked at whole. */
    private static final long SAMPLE = 1 << 16;

    /** How many times rounding an update must be before it has to show. */
    private static final double MARGIN = 16;

    private static final int NAMED = 5;

    private final List<Watch> waiting = new ArrayList<>();

    private static final class Watch {
        final String name;
        final Parameter parameter;
        final ParameterGroup group;
        final Tensor start; // [n], a copy
        int steps;
        boolean gradient;
        boolean mustMove;

        Watch(String name, Parameter parameter, ParameterGroup group) {
            this.name = name;
            this.parameter = parameter;
            this.group = group;
            this.start = sample(parameter.tensor()).clone().keep();
        }
    }

    MovementCheck(List<ParameterGroup> groups) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            groups.forEach(group ->
                    group.parameters().forEach((name, parameter) -> waiting.add(new Watch(name, parameter, group))));
        }
    }

    /** Gradients are there, the parameters have not moved yet. */
    void beforeUpdate(double learningRate) {
        try (Grad off = Grad.off()) {
            for (Watch watch : waiting) {
                double rate = learningRate * watch.group.lrFactor();
                if (rate > 0 && watch.parameter.isTrainable()) {
                    try (Scope scope = Scope.open()) {
                        look(watch, rate);
                    }
                }
            }
        }
    }

    private static void look(Watch watch, double rate) {
        watch.steps++;
        Tensor value = watch.parameter.tensor();
        Tensor gradient = value.grad();
        if (gradient == null || gradient.abs().max().item() == 0) {
            return;
        }
        watch.gradient = true;
        double largest = sample(gradient).abs().max().item();
        double rounding = epsilon(value.dtype()) * sample(value).abs().max().item();
        // Plain descent moves by rate · gradient, Adam and its kin by about the rate: what both would do must show.
        watch.mustMove |= rate * Math.min(1, largest) > MARGIN * rounding;
    }

    /**
     * The parameters have moved.
     *
     * @throws EspalierException naming those that did not, once they should have
     */
    void afterUpdate() {
        List<String> unreached = new ArrayList<>();
        List<String> stuck = new ArrayList<>();
        try (Grad off = Grad.off()) {
            for (Iterator<Watch> it = waiting.iterator(); it.hasNext(); ) {
                Watch watch = it.next();
                if (watch.steps < STEPS) {
                    continue;
                }
                try (Scope scope = Scope.open()) {
                    Tensor now = sample(watch.parameter.tensor());
                    if (!watch.gradient && onlyScaled(watch.start, now)) {
                        unreached.add(watch.name);
                    } else if (watch.mustMove && now.equal(watch.start)) {
                        stuck.add(watch.name);
                    }
                }
                watch.start.close();
                it.remove();
            }
        }
        if (!unreached.isEmpty()) {
            throw new EspalierException(
                    "after %d steps no gradient has reached %s; nothing of the loss depends on what is trained there: check the"
                                    .formatted(STEPS, names(unreached))
                            + " targets, or leave it out");
        }
        if (!stuck.isEmpty()) {
            throw new EspalierException(
                    "after %d steps with gradients %s has not changed; the optimiser moves other tensors"
                                    .formatted(STEPS, names(stuck))
                            + " than the model reads: make it from the parameters that are trained");
        }
    }

    private static boolean onlyScaled(Tensor start, Tensor now) {
        Tensor a = start.to(DType.FLOAT64);
        Tensor b = now.to(DType.FLOAT64);
        double aa = a.square().sum().item();
        double factor = aa == 0 ? 0 : a.mul(b).sum().item() / aa;
        double rest = b.sub(a.mul(factor)).norm().item();
        return rest <= 1e3 * epsilon(now.dtype()) * b.norm().item();
    }

    private static Tensor sample(Tensor tensor) {
        return tensor.detach().reshape(-1).narrow(0, 0, Math.min(SAMPLE, tensor.numel()));
    }

    private static double epsilon(DType dtype) {
        return switch (dtype) {
            case FLOAT64 -> 0x1p-52;
            case FLOAT16 -> 0x1p-10;
            case BFLOAT16 -> 0x1p-7;
            default -> 0x1p-23;
        };
    }

    private static String names(List<String> names) {
        String shown = String.join(", ", names.subList(0, Math.min(NAMED, names.size())));
        return names.size() > NAMED ? shown + " and %d more".formatted(names.size() - NAMED) : shown;
    }

    @Override
    public void close() {
        waiting.forEach(watch -> watch.start.close());
        waiting.clear();
    }
}
