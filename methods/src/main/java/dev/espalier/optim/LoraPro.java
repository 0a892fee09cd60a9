package dev.espalier.optim;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.OptimizerMethod;
import dev.espalier.adapter.Setting;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * LoRA-Pro: steps of a LoRA's two factors whose common effect on the weight is nearest to the step that full fine-tuning would
 * make.
 *
 * <p>Wang et al., <i>LoRA-Pro: Are Low-Rank Adapters Properly Optimized?</i>, arXiv:2407.18242, theorems 2.1 to 2.3.
 *
 * <pre>{@code
 * hA = s⁻² (BᵀB)⁻¹ gA + X A,    hB = s⁻² (I - B (BᵀB)⁻¹ Bᵀ) gB (A Aᵀ)⁻¹ - B X,    BᵀB X + X A Aᵀ = -s⁻² (BᵀB)⁻¹ gA Aᵀ
 * full:      Geq = s (B hA + hB A);  g = Adam's direction for Geq;  the above for sBᵀg, s g Aᵀ;  A ← A - lr hA, B ← B - lr hB
 * efficient: Adam's steps for hA and hB;    sgd: A ← A - lr hA, B ← B - lr hB
 * A, gA, hA [r, in]    B, gB, hB [out, r]    Geq, g [out, in]    X [r, r]
 * }</pre>
 *
 * <p>s is each layer's own, so that rank-stabilised LoRA is right (the authors' code has 16/8 built in). While B is zero, hA and X
 * are too, by B's value and not by the step's number; Adam counts from 1 (the authors' code from 2). Clipping acts on gA, gB before
 * this. Factors are worked out in float64. All that trains beside the factors moves by AdamW. Checked against the authors' code.
 */
public final class LoraPro implements OptimizerMethod<LoraPro.Config> {

    /** How the adjusted gradients become steps. */
    public enum Mode {
        /** By Adam in the space of the weight, with state of the weight's size. */
        FULL,
        /** By Adam on each factor. */
        EFFICIENT,
        /** As they are. */
        SGD
    }

    /** Which of the many pairs with the same effect is taken. */
    public enum Gauge {
        /** X = 0. */
        ZERO,
        /** X = -½ s⁻² (BᵀB)⁻¹ gA Aᵀ (A Aᵀ)⁻¹. */
        SYMMETRIC,
        /** The pair nearest to gA, gB. */
        SYLVESTER
    }

    /**
     * Settings.
     *
     * @param mode how adjusted gradients become steps
     * @param gauge X
     * @param delta added to the diagonals of BᵀB and A Aᵀ before they are inverted, at least 0
     * @param adam β1, β2, ε and weight decay, of the factors and of what trains beside them
     */
    public record Config(Mode mode, Gauge gauge, double delta, AdamW.Config adam) {

        /** As the authors. */
        public static final Config DEFAULT = new Config(Mode.FULL, Gauge.SYLVESTER, 1e-8, AdamW.Config.DEFAULT);

        /** Checks the range. */
        public Config {
            check(
                    delta >= 0 && Double.isFinite(delta),
                    "delta must be at least 0 and finite, found %s; try 1e-8",
                    delta);
        }
    }

    @Override
    public About about() {
        return new About(
                "lora-pro",
                "optimizer",
                "steps of a LoRA's factors whose common effect is nearest to full fine-tuning's step",
                "Wang et al., LoRA-Pro: Are Low-Rank Adapters Properly Optimized?, arXiv:2407.18242",
                """
                hA = s⁻² (BᵀB)⁻¹ gA + X A,  hB = s⁻² (I - B (BᵀB)⁻¹ Bᵀ) gB (A Aᵀ)⁻¹ - B X
                state of a layer: 2 out · in numbers (full), 2 r (in + out) (efficient), none (sgd)""",
                "lora, rslora, dora and their initializers, any loss term; not with adapters that have no factors A and B",
                "nothing: it leaves no trace in the adapter",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "mode", "full (Adam in weight space), efficient (Adam on the factors) or sgd",
                "gauge", "which of the pairs with one effect: sylvester (nearest to LoRA's), symmetric or zero",
                "delta", "added to the diagonals of BᵀB and A Aᵀ before inversion, at least 0",
                "beta1", "decay of the mean gradient, in [0, 1)",
                "beta2", "decay of the mean squared gradient, in [0, 1)",
                "eps", "added to the denominator, above 0",
                "weightDecay", "λ, at least 0");
    }

    @Override
    public Config read(Fields f) {
        AdamW.Config adam = Config.DEFAULT.adam();
        return new Config(
                f.choice("mode", Config.DEFAULT.mode()),
                f.choice("gauge", Config.DEFAULT.gauge()),
                f.number("delta", Config.DEFAULT.delta()),
                AdamWMethod.read(f, adam));
    }

    @Override
    public Optimizer.Config create(Config config, Setting setting) {
        Map<Parameter, String> names = new HashMap<>();
        setting.model().trainableParameters().forEach((name, p) -> names.put(p, name));
        Map<String, Pair> pairs = new LinkedHashMap<>();
        for (Site site : setting.adapter().sites()) {
            if (!(setting.adapter().at(site.path()) instanceof LowRank factors)) {
                throw new EspalierException(
                        "lora-pro adjusts gradients of the factors A and B, and %s has none on %s; use lora, or another optimizer"
                                .formatted(setting.adapter().spec().type().name(), site.path()));
            }
            String a = names.get(factors.a());
            String b = names.get(factors.b());
            check(
                    a != null && b != null,
                    "lora-pro adjusts gradients of A and B together, and on %s one of them does not train; use adamw",
                    site.path());
            pairs.put(
                    java.util.Objects.requireNonNull(a),
                    new Pair(java.util.Objects.requireNonNull(b), factors.scale()));
        }
        check(
                !pairs.isEmpty(),
                "lora-pro adjusts gradients of the factors A and B, and %s has none; use lora, or another optimizer",
                setting.adapter().spec().type().name());
        return new Bound(config, pairs);
    }

    /**
     * The other factor of a pair.
     *
     * @param b name of B
     * @param scale s
     */
    record Pair(String b, double scale) {}

    /** Settings with the pairs that they are for, by the name of A. */
    record Bound(Config config, Map<String, Pair> pairs) implements Optimizer.Config {

        @Override
        public Optimizer create(List<ParameterGroup> groups) {
            return new PerParameter(groups, rules(groups)::get, config.adam());
        }

        @Override
        public long stateBytes(List<ParameterGroup> groups) {
            return PerParameter.stateBytes(groups, rules(groups)::get, config.adam());
        }

        @Override
        public boolean separable() {
            return false;
        }

        @Override
        public double weightDecay() {
            return config.adam().weightDecay();
        }

        /** A's rule moves both; B's does nothing more. */
        private Map<String, PerParameter.Rule> rules(List<ParameterGroup> groups) {
            Map<String, ParameterGroup> owners = new HashMap<>();
            groups.forEach(group -> group.parameters().keySet().forEach(name -> owners.put(name, group)));
            Map<String, PerParameter.Rule> rules = new HashMap<>();
            pairs.forEach((a, pair) -> {
                ParameterGroup owner = owners.get(pair.b());
                if (owner != null && owners.containsKey(a)) {
                    Parameter b =
                            java.util.Objects.requireNonNull(owner.parameters().get(pair.b()));
                    rules.put(a, new Both(config, b, owner, pair.scale()));
                    rules.put(pair.b(), new Moved());
                }
            });
            return rules;
        }

        @Override
        public String toString() {
            return "%s on %d pairs".formatted(config, pairs.size());
        }
    }

    /** The rule of a parameter that another one's rule moves. */
    private record Moved() implements PerParameter.Rule {
        @Override
        public Map<String, Kept> layout(DType dtype, long[] shape) {
            return Map.of();
        }

        @Override
        public void update(Tensor value, Tensor gradient, Memory memory, ParameterGroup group, double learningRate) {}
    }

    /** The step of a pair; what is remembered is kept under A. */
    private record Both(Config config, Parameter factor, ParameterGroup groupOfB, double scale)
            implements PerParameter.Rule {

        @Override
        public Map<String, Kept> layout(DType dtype, long[] shape) {
            long out = factor.shape()[0];
            Map<String, Kept> layout = new LinkedHashMap<>();
            switch (config.mode()) {
                case FULL -> {
                    layout.put("exp_avg", new Kept(dtype, out, shape[1]));
                    layout.put("exp_avg_sq", new Kept(dtype, out, shape[1]));
                }
                case EFFICIENT -> {
                    layout.put("exp_avg_A", new Kept(dtype, shape));
                    layout.put("exp_avg_sq_A", new Kept(dtype, shape));
                    layout.put("exp_avg_B", new Kept(dtype, factor.shape()));
                    layout.put("exp_avg_sq_B", new Kept(dtype, factor.shape()));
                }
                case SGD -> {}
            }
            return layout;
        }

        @Override
        public void update(Tensor a, Tensor gradient, Memory memory, ParameterGroup group, double learningRate) {
            Tensor gradientOfB = factor.tensor().grad();
            if (gradientOfB == null) {
                return; // A moves with B or not at all
            }
            Tensor b = factor.tensor().detach();
            Adjustment pair = Adjustment.of(a, b, scale, config.delta());
            Adjustment.Gradients steps = switch (config.mode()) {
                case FULL -> {
                    Tensor whole = pair.effect(pair.gradients(gradient, gradientOfB, Gauge.ZERO));
                    Tensor g = adam(memory, "", whole.to(a.dtype())).to(DType.FLOAT64);
                    yield pair.gradients(pair.ofA(g), pair.ofB(g), config.gauge());
                }
                case EFFICIENT -> {
                    Adjustment.Gradients h = pair.gradients(gradient, gradientOfB, config.gauge());
                    yield new Adjustment.Gradients(
                            adam(memory, "_A", h.a().to(a.dtype())), adam(memory, "_B", h.b().to(a.dtype())));
                }
                case SGD -> pair.gradients(gradient, gradientOfB, config.gauge());
            };
            move(a, steps.a(), group, learningRate);
            move(b, steps.b(), groupOfB, learningRate);
        }

        private Tensor adam(Memory memory, String factor, Tensor gradient) {
            return Inner.direction(
                    memory.at("exp_avg" + factor),
                    memory.at("exp_avg_sq" + factor),
                    gradient,
                    memory.step(),
                    config.adam());
        }

        private static void move(Tensor value, Tensor step, ParameterGroup group, double learningRate) {
            double rate = learningRate * group.lrFactor();
            if (group.weightDecay() != 0) {
                value.mul_(1 - rate * group.weightDecay());
            }
            value.add_(step.to(value.dtype()), -rate);
        }
    }
}
