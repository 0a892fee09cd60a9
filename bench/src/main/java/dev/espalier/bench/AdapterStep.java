package dev.espalier.bench;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Targets;
import dev.espalier.data.Batch;
import dev.espalier.io.Fields;
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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;

/**
 * Times a training step on SmolLM2-135M: an adapter on all seven linears of each layer, AdamW with clipping. The peer is
 * {@code bench/peers/peft_step.py}, which has the same methods by the same names.
 *
 * <pre>{@code java ... dev.espalier.bench.AdapterStep MODEL.gguf METHOD STEPS SUPERVISED}</pre>
 *
 * <p>A batch is 4 rows of 256 random tokens; the loss is on the last share SUPERVISED of each row.
 */
public final class AdapterStep {

    private AdapterStep() {}

    private static final int ROWS = 4;
    private static final int LENGTH = 256;
    private static final int WARM_UP = 1;

    /** What each method is compared at: PEFT's defaults, rank 8 where it has a rank of this kind. */
    private static final Map<String, Map<String, Object>> SETTINGS = Map.of(
            "lora", Map.of("r", 8, "lora_alpha", 16),
            "dora", Map.of("r", 8, "lora_alpha", 16),
            "vera", Map.of("r", 256),
            "randlora", Map.of("r", 32),
            "oft", Map.of("oft_block_size", 32),
            "bone", Map.of("r", 64));

    /** Prints one JSON line: the median step, tokens per second, peak resident memory. */
    @SuppressWarnings("SystemOut")
    public static void main(String[] args) {
        String method = args[1];
        int steps = Integer.parseInt(args[2]);
        double supervised = Double.parseDouble(args[3]);
        double[] seconds = new double[steps];
        LoadOptions options = LoadOptions.defaults().withPrecision(Precision.FP32);
        try (Pretrained pretrained = Models.load(Path.of(args[0]), Purpose.causalLm(), options)) {
            CausalLm model = pretrained.causalLm();
            AdaptedModel adapted = new AdaptedModel(model, model.heads());
            adapted.attach("default", spec(method), new Seed(0));
            Map<String, Parameter> trained = adapted.trainableParameters();
            ParameterGroup group = new ParameterGroup("all", trained, 1, 0.01);
            try (Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(group))) {
                CausalLmTask task = new CausalLmTask(model, 0);
                model.train(true);
                Random random = new Random(0);
                for (int step = -WARM_UP; step < steps; step++) {
                    long[] ids = random.longs((long) ROWS * LENGTH, 0, 49152).toArray();
                    long start = System.nanoTime();
                    step(task, optimizer, trained.values(), ids, supervised);
                    if (step >= 0) {
                        seconds[step] = (System.nanoTime() - start) / 1e9;
                    }
                }
            }
            adapted.close();
        }
        Arrays.sort(seconds);
        double median = seconds[steps / 2];
        System.out.printf(
                Locale.ROOT,
                "{\"median_s\": %.3f, \"best_s\": %.3f, \"tokens_per_s\": %.1f, \"peak_rss_mib\": %d}%n",
                median,
                seconds[0],
                ROWS * LENGTH / median,
                Machine.peakResidentBytes() >> 20);
    }

    private static AdapterSpec<?> spec(String method) {
        Map<String, Object> settings = new LinkedHashMap<>(SETTINGS.get(method));
        settings.put("type", method);
        settings.put("target_modules", Targets.ALL_LINEAR);
        return AdapterSpec.read(Fields.of("the benchmark", settings));
    }

    private static void step(
            CausalLmTask task, Optimizer optimizer, Collection<Parameter> trained, long[] ids, double supervised) {
        try (Scope scope = Scope.open()) {
            Tensor tokens = Tensor.of(ids, ROWS, LENGTH);
            Tensor real = Tensor.ones(DType.INT64, ROWS, LENGTH);
            Tensor positions = Tensor.arange(LENGTH).unsqueeze(0).expand(ROWS, LENGTH);
            List<String> sources = Collections.nCopies(ROWS, "random");
            int silent = LENGTH - Math.toIntExact(Math.round(supervised * LENGTH));
            long[] labels = ids.clone();
            for (int i = 0; i < labels.length; i++) {
                labels[i] = i % LENGTH < silent ? Batch.IGNORED : ids[i];
            }
            long targets = (long) ROWS * (LENGTH - Math.max(silent, 1));
            Tensor wanted = Tensor.of(labels, ROWS, LENGTH);
            Batch batch =
                    new Batch(tokens, real, positions, null, null, wanted, targets, (long) ROWS * LENGTH, sources);
            task.loss(batch).div((double) targets).backward();
            Parameters.normAndClip(trained, 1);
            optimizer.step(1e-4);
            optimizer.zeroGrad();
        }
    }
}
