package dev.espalier.recipe;

import dev.espalier.adapter.Plan;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.model.CausalLm;
import dev.espalier.model.Family;
import dev.espalier.model.Model;
import dev.espalier.model.ModelConfig;
import dev.espalier.task.Inputs;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * How much memory a training will need at its peak.
 *
 * <p>What is there before the first step (Java, libtorch, tokenizer, data, the base's weights) is measured, after one forward
 * pass that brings everything in. What training adds is computed from shapes, for the batch with the longest texts:
 *
 * <pre>{@code
 * gradients    4 bytes a trained parameter
 * optimizer    what the optimiser declares: 8 bytes a trained parameter for AdamW
 * activations  tokens · layers · (d D + f F) · bytes     kept for the backward pass
 *              + tokens · inputs of adapted layers · bytes
 *              + B · heads · T² · bytes · a · layers      attention weights, where attention drops out
 *              computed again: tokens · layers · D · bytes, and thrice the above of one layer: what is kept, its gradients,
 *              and what passes through (fitted to MiniLM, 16 x 128, and SmolLM2-135M, 8 x 95)
 * logits       3 · chunk · V · 4                          of a language model's loss
 * D width    F inner width    T tokens a row    B rows    V vocabulary
 * }</pre>
 *
 * @param present bytes in memory before training
 * @param gradients bytes
 * @param optimizer bytes
 * @param activations bytes
 * @param logits bytes
 * @param rows of the largest batch
 * @param width tokens of its rows
 * @param recomputes whether layers are computed again in the backward pass
 * @param total bytes at the peak
 */
public record Forecast(
        long present,
        long gradients,
        long optimizer,
        long activations,
        long logits,
        long rows,
        long width,
        boolean recomputes,
        long total) {

    /**
     * Tensors kept a layer, in units of [tokens, D] and [tokens, F], and of [B, heads, T, T].
     *
     * <p>Counted in the forward passes of the families, then fitted to measured peaks (resident memory, Linux, fp32, LoRA). Of
     * MiniLM with rows x tokens 16 x 128, 64 x 128, 32 x 256 the forecast is 0.3 to 0.5 % off, of SmolLM2-135M with 1 x 256, 2
     * x 512 (r 32), 4 x 256 (q and v only) 1 to 3 %. Dropout, which BERT and GPT-2 train with, keeps what it drops, and the
     * attention weights with it.
     */
    private record Kept(double ofWidth, double ofInner, double ofScores) {}

    private static final Kept LLAMA = new Kept(9, 4, 0);
    private static final Kept GPT2 = new Kept(12, 2, 3.4);
    private static final Kept BERT = new Kept(12, 2, 3.4);

    /** Rows of logits alive at once, as in the language-model loss. */
    private static final long CHUNK = 128;

    /** Of a run as it will train. */
    static Forecast of(Run run) {
        Model model = run.pretrained().model();
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            model.train(false);
            model.backbone().forward(Inputs.of(run.collator().batch(new Collator.Cursor(0, 0)), model));
        }
        return of(run, run.recomputes(), Machine.residentBytes());
    }

    /** Whether what training adds, all of it kept, would fit what memory is left now. */
    static boolean fits(Run run) {
        long available = Machine.availableBytes();
        if (available < 0) {
            return true;
        }
        Forecast all = of(run, false, 0);
        return all.gradients() + all.optimizer() + all.activations() + all.logits() < available;
    }

    private static Forecast of(Run run, boolean again, long present) {
        Model model = run.pretrained().model();
        ModelConfig config = model.config();
        Plan plan = run.plan();
        long rows;
        long width;
        try (Scope scope = Scope.open()) {
            Batch largest = run.collator().largest();
            rows = largest.inputIds().size(0);
            width = largest.inputIds().size(1);
        }
        long bytes = model.backbone().dtype().bytes();
        long tokens = rows * width;
        Kept kept = config.family() == Family.BERT || config.family() == Family.ROBERTA
                ? BERT
                : config.family() == Family.GPT2 ? GPT2 : LLAMA;
        long trained = plan.trainableParameters();
        double layers = config.numHiddenLayers();
        double activations = (double) tokens
                        * (kept.ofWidth() * config.hiddenSize() * layers
                                + kept.ofInner() * sum(config.intermediateSizes()))
                + (double) tokens * adaptedInputs(plan);
        double scores = (double) rows * sum(config.attentionHeads()) * width * width * kept.ofScores();
        double all = again
                ? tokens * layers * config.hiddenSize() + 3 * (activations + scores) / layers
                : activations + scores;
        long gradients = 4 * trained;
        long optimizer = run.optimizerBytes();
        long logits = model instanceof CausalLm ? 3 * Math.min(CHUNK, tokens) * config.vocabSize() * 4 : 0;
        long activationBytes = (long) (all * bytes);
        long total = Math.max(Machine.peakResidentBytes(), present + gradients + optimizer + activationBytes + logits);
        return new Forecast(present, gradients, optimizer, activationBytes, logits, rows, width, again, total);
    }

    private static long sum(List<Integer> sizes) {
        return sizes.stream().mapToLong(Integer::longValue).sum();
    }

    /** Floats a token that adapters keep of their layers' inputs; layers side by side share theirs. */
    private static long adaptedInputs(Plan plan) {
        Set<String> seen = new HashSet<>();
        long sum = 0;
        for (Plan.Touched layer : plan.layers()) {
            String parent = layer.path().substring(0, Math.max(0, layer.path().lastIndexOf('.')));
            if (layer.in() > 0 && seen.add(parent + ":" + layer.in())) {
                sum += layer.in();
            }
        }
        return sum;
    }
}
