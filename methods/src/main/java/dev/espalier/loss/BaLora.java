package dev.espalier.loss;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Regularizer;
import dev.espalier.adapter.Setting;
import dev.espalier.io.Fields;
import dev.espalier.nn.Module;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.Task;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.LossTerm;
import dev.espalier.train.StepContext;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * BA-LoRA: three terms on the logits against what fine-tuning inherits from the data of pre-training.
 *
 * <p>Chang, Chang, Wu, <i>BA-LoRA: Bias-Alleviating Low-Rank Adaptation to Mitigate Catastrophic Inheritance in Large Language
 * Models</i>, arXiv:2408.04556, section 3.
 *
 * <pre>{@code
 * L = L_task + lambda1 CR + lambda2 DR + lambda3 SVDR,    Z [n, D] logits of the n rows or tokens of a batch, P the teacher's
 * CR = T² mean KL(softmax(P / T) ‖ softmax(Z / T))
 * nlu:  DR = Σ_{i≠j} C_ij² / D,  C = covariance of Z's columns [D, D]      SVDR = -Σ_{i<=k} σ_i / Σ σ_i
 * nlg:  DR = -mean entropy of the top_k logits' softmax                    SVDR = -Σ_{i<=k} σ_i / ‖Z‖_F
 * }</pre>
 *
 * <p>The teacher is the network without its adapter, in evaluation mode, with the head it started with: an adapter here keeps a
 * start such as PiSSA's to itself. Rows of language models are those that the loss is over; the authors' code takes the ones
 * before. Of its schedules those of its script are here, and not the variant that follows the teacher's entropy. Checked by
 * derivation: closed gradients, bounds and invariances.
 */
public final class BaLora implements Regularizer<BaLora.Config> {

    private static final long WIDE = 4096; // beyond, singular values are found by random probes
    private static final int OVERSAMPLING = 5;
    private static final int POWER_ITERATIONS = 2;

    /** Which forms of the terms. */
    public enum Form {
        /** By the task: language models generate, the others understand. */
        AUTO,
        /** Of classification. */
        NLU,
        /** Of language models. */
        NLG
    }

    /**
     * BA-LoRA's settings; what is null is the paper's value for the form.
     *
     * @param form of the terms
     * @param lambda1 weight of consistency with the teacher, at least 0
     * @param lambda2 weight of diversity, at least 0
     * @param lambda3 weight of the spectrum, at least 0
     * @param k leading singular values, at least 1
     * @param topK candidates in the entropy of language models, at least 0; 0: the whole vocabulary
     * @param temperature T, positive
     * @param schedules whether weights change in the course of training
     */
    public record Config(
            Form form,
            @Nullable Double lambda1,
            @Nullable Double lambda2,
            @Nullable Double lambda3,
            @Nullable Integer k,
            int topK,
            @Nullable Double temperature,
            @Nullable Boolean schedules) {

        /** The paper's. */
        public static final Config DEFAULT = new Config(Form.AUTO, null, null, null, null, 20, null, null);

        /** Checks the ranges. */
        public Config {
            weight("lambda1", lambda1);
            weight("lambda2", lambda2);
            weight("lambda3", lambda3);
            check(k == null || k >= 1, "k must be at least 1, found %d; try 5", k);
            check(topK >= 0, "top_k must be at least 0, found %d; try 20", topK);
            check(
                    temperature == null || (temperature > 0 && Double.isFinite(temperature)),
                    "temperature must be positive and finite, found %s; try 2",
                    temperature);
        }

        private static void weight(String name, @Nullable Double value) {
            check(
                    value == null || (value >= 0 && Double.isFinite(value)),
                    "%s must be at least 0 and finite, found %s; try 0.03, or 0 to leave the term out",
                    name,
                    value);
        }

        /** Every value for a task. */
        Settled settled(boolean generates) {
            boolean nlg = form == Form.AUTO ? generates : form == Form.NLG;
            return new Settled(
                    nlg,
                    or(lambda1, nlg ? 0.025 : 0.15),
                    or(lambda2, nlg ? 0.005 : 0.03),
                    or(lambda3, nlg ? 0.005 : 0.03),
                    or(k, nlg ? 10 : 5),
                    topK,
                    or(temperature, nlg ? 2.0 : 1.0),
                    or(schedules, nlg));
        }

        private static <T> T or(@Nullable T value, T otherwise) {
            return value == null ? otherwise : value;
        }
    }

    /** Settings without gaps. */
    record Settled(
            boolean nlg,
            double lambda1,
            double lambda2,
            double lambda3,
            int k,
            int topK,
            double temperature,
            boolean schedules) {

        /** The weight of consistency after t of n steps: falls along a cosine to a tenth. */
        double lambda1(long t, long n) {
            return schedules ? lambda1 * (0.1 + 0.9 * (1 + Math.cos(Math.PI * t / n)) / 2) : lambda1;
        }

        /** What the other weights are multiplied by: 0 for a fifth of the steps, then rising for a twentieth. */
        double share(long t, long n) {
            if (!schedules) {
                return 1;
            }
            long quiet = (long) Math.floor(0.2 * n);
            long rising = Math.max((long) Math.floor(0.05 * n), 1);
            return Math.min(1, Math.max(0, (t - quiet) / (double) rising));
        }
    }

    @Override
    public About about() {
        return new About(
                "ba-lora",
                "loss term",
                "closeness to the pre-trained model, diversity, and a concentrated spectrum of the logits",
                "Chang, Chang, Wu, BA-LoRA: Bias-Alleviating Low-Rank Adaptation to Mitigate Catastrophic Inheritance in Large"
                        + " Language Models, ICLR 2026, arXiv:2408.04556",
                """
                L = L_task + lambda1 CR + lambda2 DR + lambda3 SVDR,  Z [n, D] logits, P the pre-trained model's
                CR = T² mean KL(softmax(P / T) ‖ softmax(Z / T))
                nlu: DR = Σ_{i≠j} C_ij² / D,  C = cov(Z);  SVDR = -Σ_{i<=k} σ_i / Σ σ_i
                nlg: DR = -mean entropy of the top_k logits;  SVDR = -Σ_{i<=k} σ_i / ‖Z‖_F""",
                "any adapter (the paper: pissa), any optimizer",
                "nothing of its own",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "form", "auto (by the task), nlu or nlg",
                "lambda1", "weight of consistency with the pre-trained model, at least 0; nlu 0.15, nlg 0.025",
                "lambda2", "weight of diversity, at least 0; nlu 0.03, nlg 0.005",
                "lambda3", "weight of the spectrum, at least 0; nlu 0.03, nlg 0.005",
                "k", "leading singular values, at least 1; nlu 5, nlg 10",
                "top_k", "candidates in nlg's entropy, at least 0; 0 for the whole vocabulary",
                "temperature", "of consistency, above 0; nlu 1, nlg 2",
                "schedules", "whether the weights change in training as in the authors' script; nlu false, nlg true");
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.choice("form", usual.form()),
                f.orNull("lambda1", Fields::number),
                f.orNull("lambda2", Fields::number),
                f.orNull("lambda3", Fields::number),
                f.orNull("k", Fields::integer),
                f.integer("top_k", usual.topK()),
                f.orNull("temperature", Fields::number),
                f.orNull("schedules", (g, name) -> g.bool(name, false)));
    }

    @Override
    public LossTerm create(Config config, Setting setting) {
        Settled settled = config.settled(setting.task() instanceof CausalLmTask);
        Seed probes = setting.seed().named("ba-lora");
        return (step, outcome) -> value(settled, setting.model(), probes, step, outcome);
    }

    private static Tensor value(Settled s, AdaptedModel model, Seed probes, StepContext step, Task.Outcome outcome) {
        Tensor z = outcome.logits();
        long done = step.step() - 1;
        long steps = step.run().totalSteps();
        double share = s.share(done, steps);
        Tensor sum = Tensor.scalar(0, z.dtype()).to(z.device());
        double own = s.lambda1(done, steps);
        if (own > 0) {
            sum = sum.add(consistency(teacher(model, step), z, s.temperature()), own);
        }
        if (s.lambda2() * share > 0) {
            sum = sum.add(s.nlg() ? narrowness(z, s.topK()) : covariance(z), s.lambda2() * share);
        }
        if (s.lambda3() * share > 0) {
            Seed ofStep = probes.at(step.step()).at(step.microStep());
            sum = sum.add(spectrum(z, s.k(), s.nlg(), ofStep), s.lambda3() * share);
        }
        return sum;
    }

    /** Logits of the network without its adapter, as it was pre-trained. */
    private static Tensor teacher(AdaptedModel model, StepContext step) {
        Module network = model.network();
        boolean training = network.isTraining();
        return model.unadapted(() -> {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                network.train(false);
                return scope.promote(step.run().task().forward(step.batch()).logits());
            } finally {
                network.train(training);
            }
        });
    }

    /** CR: T² mean KL(softmax(P / T) ‖ softmax(Z / T)). */
    static Tensor consistency(Tensor teacher, Tensor z, double temperature) {
        Tensor p = teacher.div(temperature).logSoftmax(-1); // [n, D]
        Tensor q = z.div(temperature).logSoftmax(-1);
        return p.exp().mul(p.sub(q)).sum(-1, false).mean().mul(temperature * temperature);
    }

    /** DR of classification: Σ_{i≠j} C_ij² / D; 0 for a single row. */
    static Tensor covariance(Tensor z) {
        long n = z.size(0);
        if (n < 2) {
            return z.sum().mul(0);
        }
        Tensor centred = z.sub(z.mean(0, true)); // [n, D]
        Tensor c = centred.t().matmul(centred).div((double) (n - 1)); // [D, D]
        Tensor others = Tensor.eye(c.size(0), c.dtype()).to(c.device()).neg().add(1);
        return c.mul(others).square().sum().div((double) z.size(1));
    }

    /** DR of language models: minus the mean entropy of the softmax over the K largest logits. */
    static Tensor narrowness(Tensor z, int candidates) {
        long kept = candidates == 0 ? z.size(1) : Math.min(candidates, z.size(1));
        Tensor log = z.topk(kept).get(0).logSoftmax(-1); // [n, K]
        return log.exp().mul(log).sum(-1, false).mean();
    }

    /**
     * SVDR: minus the sum of the k leading singular values over the sum of all, or over ‖Z‖_F. The gradient goes through
     * singular values alone: Σ_{i≤k} σ_i = Σ U_k ∘ (Z V_k) with U and V held, which is its exact derivative U_k V_kᵀ.
     */
    static Tensor spectrum(Tensor z, int k, boolean frobenius, Seed seed) {
        long width = Math.min(z.size(0), z.size(1));
        if (frobenius && (z.size(0) < 2 || z.norm().item() <= 1e-8)) {
            return z.sum().mul(0);
        }
        long kept = Math.min(k, width);
        List<Tensor> svd;
        try (Grad off = Grad.off();
                Generator generator = seed.generator()) {
            svd = frobenius && z.size(1) > WIDE && k < width
                    ? z.svdLowrank(Math.min(k + OVERSAMPLING, width), POWER_ITERATIONS, generator)
                    : z.svd();
        }
        Tensor each = svd.get(0).mul(z.matmul(svd.get(2).t())).sum(0, false); // σ [.., width]
        Tensor top = each.narrow(0, 0, kept).sum();
        return top.div(frobenius ? z.square().sum().sqrt() : each.sum()).neg();
    }
}
