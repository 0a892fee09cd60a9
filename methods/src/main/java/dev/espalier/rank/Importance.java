package dev.espalier.rank;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;

/**
 * How much things matter to the loss: their sensitivity smoothed over steps, times how uncertain it is.
 *
 * <p>Zhang et al., <i>AdaLoRA</i>, arXiv:2303.10512, eq. 9 to 11:
 *
 * <pre>{@code
 * Ī ← β1 Ī + (1 - β1) I,    Ū ← β2 Ū + (1 - β2) |I - Ī| with the new Ī,    score = Ī Ū
 * }</pre>
 *
 * <p>Both means start at zero and are not corrected for it.
 */
public final class Importance {

    private final double beta1;
    private final double beta2;
    private final Map<String, Tensor> mean = new LinkedHashMap<>(); // Ī
    private final Map<String, Tensor> uncertainty = new LinkedHashMap<>(); // Ū

    /** Nothing seen yet; both in (0, 1). */
    public Importance(double beta1, double beta2) {
        checkBeta("beta1", beta1);
        checkBeta("beta2", beta2);
        this.beta1 = beta1;
        this.beta2 = beta2;
    }

    /** Stops unless a decay lies in (0, 1). */
    public static void checkBeta(String name, double beta) {
        check(beta > 0 && beta < 1, "%s must lie in (0, 1), found %s; try 0.85", name, beta);
    }

    /** Takes a sensitivity I of something into account. */
    public void observe(String name, Tensor sensitivity) {
        try (Scope scope = Scope.open()) {
            Tensor zero = sensitivity.zerosLike();
            Tensor mean =
                    scope.promote(this.mean.getOrDefault(name, zero).mul(beta1).add(sensitivity.mul(1 - beta1)));
            Tensor apart = sensitivity.sub(mean).abs().mul(1 - beta2);
            Tensor uncertainty = scope.promote(
                    this.uncertainty.getOrDefault(name, zero).mul(beta2).add(apart));
            put(this.mean, name, mean);
            put(this.uncertainty, name, uncertainty);
        }
    }

    /** Ī Ū, in the shape of the sensitivity. */
    public Tensor score(String name) {
        return Objects.requireNonNull(mean.get(name), name).mul(Objects.requireNonNull(uncertainty.get(name)));
    }

    /** Forgets everything. */
    public void reset() {
        mean.values().forEach(Tensor::close);
        uncertainty.values().forEach(Tensor::close);
        mean.clear();
        uncertainty.clear();
    }

    /** What it remembers. */
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        mean.forEach((name, t) -> all.put("mean." + name, t));
        uncertainty.forEach((name, t) -> all.put("uncertainty." + name, t));
        return all;
    }

    /** Takes over what {@link #state} gave; other names are ignored. */
    public void load(Map<String, Tensor> state) {
        reset();
        state.forEach((name, t) -> {
            if (name.startsWith("mean.")) {
                put(mean, name.substring("mean.".length()), t.clone());
            } else if (name.startsWith("uncertainty.")) {
                put(uncertainty, name.substring("uncertainty.".length()), t.clone());
            }
        });
    }

    private static void put(Map<String, Tensor> map, String name, Tensor value) {
        Tensor former = map.put(name, value.keep());
        if (former != null) {
            former.close();
        }
    }
}
