package dev.espalier.bench;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.Targets;
import dev.espalier.data.Batch;
import dev.espalier.model.CausalLm;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.nn.Parameter;
import dev.espalier.task.CausalLmTask;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Parameters;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;

/**
 * Times a LoRA training step on SmolLM2-135M: rank 8 on all seven linears of each layer, AdamW with clipping. The peer is
 * {@code bench/peers/peft_lora_step.py}.
 *
 * <pre>{@code java ... dev.espalier.bench.LoraStep MODEL.gguf [steps] [batch] [length]}</pre>
 */
public final class LoraStep {

    private LoraStep() {}

    /** Prints one JSON line: median step, tokens per second, peak resident memory. */
    @SuppressWarnings("SystemOut")
    public static void main(String[] args) {
        int steps = args.length > 1 ? Integer.parseInt(args[1]) : 10;
        int rows = args.length > 2 ? Integer.parseInt(args[2]) : 4;
        int length = args.length > 3 ? Integer.parseInt(args[3]) : 256;
        int warmUp = 2;
        double[] seconds = new double[steps];
        LoadOptions options = LoadOptions.defaults().withPrecision(Precision.FP32);
        try (Pretrained pretrained = Models.load(Path.of(args[0]), Purpose.causalLm(), options)) {
            CausalLm model = pretrained.causalLm();
            AdaptedModel adapted = new AdaptedModel(model, model.heads());
            AdapterSpec<Lora.Config> spec =
                    AdapterSpec.of(new Lora.Type(), Lora.Config.of(8, 16), Targets.of(Targets.ALL_LINEAR));
            adapted.attach("default", spec, new Seed(0));
            Map<String, Parameter> trained = adapted.trainableParameters();
            ParameterGroup group = new ParameterGroup("all", trained, 1, 0.01);
            try (Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(group))) {
                CausalLmTask task = new CausalLmTask(model, 0);
                model.train(true);
                Random random = new Random(0);
                for (int step = -warmUp; step < steps; step++) {
                    long[] ids = random.longs((long) rows * length, 0, 49152).toArray();
                    long start = System.nanoTime();
                    step(task, optimizer, trained.values(), ids, rows, length);
                    if (step >= 0) {
                        seconds[step] = (System.nanoTime() - start) / 1e9;
                    }
                }
            }
            adapted.close();
        }
        double[] sorted = seconds.clone();
        Arrays.sort(sorted);
        double median = sorted[steps / 2];
        System.out.printf(
                Locale.ROOT,
                "{\"peer\": \"espalier\", \"median_s\": %.3f, \"best_s\": %.3f, \"tokens_per_s\": %.1f, \"peak_rss_gib\": %.2f}%n",
                median,
                sorted[0],
                (double) ((long) rows * length) / median,
                Machine.peakResidentBytes() / (double) (1L << 30));
    }

    private static void step(
            CausalLmTask task, Optimizer optimizer, Collection<Parameter> trained, long[] ids, int rows, int length) {
        try (Scope scope = Scope.open()) {
            Tensor tokens = Tensor.of(ids, rows, length);
            Tensor real = Tensor.ones(DType.INT64, rows, length);
            Tensor positions = Tensor.arange(length).unsqueeze(0).expand(rows, length);
            List<String> sources = Collections.nCopies(rows, "random");
            long targets = (long) rows * (length - 1);
            Batch batch =
                    new Batch(tokens, real, positions, null, null, tokens, targets, (long) rows * length, sources);
            task.loss(batch).div((double) targets).backward();
            Parameters.normAndClip(trained, 1);
            optimizer.step(1e-4);
            optimizer.zeroGrad();
        }
    }
}
