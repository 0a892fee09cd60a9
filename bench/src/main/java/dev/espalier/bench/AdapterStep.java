package dev.espalier.bench;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Targets;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.nn.Parameter;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.ClassificationTask;
import dev.espalier.task.Task;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Parameters;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/**
 * Times training steps: an adapter on all linears of each layer, AdamW with clipping, random tokens. The peer is {@code
 * bench/peers/peft_step.py}, which has the same methods by the same names.
 *
 * <pre>{@code java ... dev.espalier.bench.AdapterStep '{"model": "smollm2", "method": "lora", ...}'}</pre>
 *
 * <p>The keys are those of {@link Cases#STEP}, and steps; and, of this side alone, {@code packed} (0: one sequence a row; else
 * tokens a row is packed to), {@code r}, and {@code adapters} (1; that many stand on each other). The model is {@code smollm2},
 * which is the file that MODEL names, {@code minilm}, or a path.
 */
public final class AdapterStep {

    private AdapterStep() {}

    private static final int CLASSES = 14; // of the quickstart's data

    /**
     * What each method is compared at: PEFT's defaults, rank 8 where it has a rank of this kind. {@code none} is as near as it
     * comes to no adapter: the gradient runs through the whole network, to the first norm's 576 numbers.
     */
    private static final Map<String, Map<String, Object>> SETTINGS = Map.of(
            "lora", Map.of("r", 8, "lora_alpha", 16),
            "dora", Map.of("r", 8, "lora_alpha", 16),
            "vera", Map.of("r", 256),
            "randlora", Map.of("r", 32),
            "oft", Map.of("oft_block_size", 32),
            "bone", Map.of("r", 64),
            "none", Map.of("type", "full", "parameters", List.of("model.layers.0.input_layernorm.weight")));

    /** Prints one JSON line: each step's seconds, tokens per second, peak resident memory. */
    public static void main(String[] args) {
        Fields work = Fields.of("the work", Json.parse("the work", args[0]));
        boolean classifies = work.string("model").equals("minilm");
        try (Pretrained pretrained = load(work, classifies);
                AdaptedModel adapted = AdaptedModel.of(pretrained.model())) {
            pretrained.model().backbone().gradientCheckpointing(work.bool("checkpointing", false));
            attach(adapted, pretrained, work);
            Task task = classifies
                    ? new ClassificationTask(pretrained.classifier(), ClassificationTask.Options.DEFAULT)
                    : new CausalLmTask(pretrained.causalLm(), 0);
            Collator.Options options =
                    new Collator.Options(work.integer("rows"), 0, Collator.Side.RIGHT, true, work.integer("packed", 0));
            List<Encoding> sequences = Sequences.random(
                    lengths(work),
                    pretrained.model().config().vocabSize(),
                    work.number("supervised"),
                    classifies ? CLASSES : 0);
            Child.answer(
                    time(task, adapted.trainableParameters(), new Collator(sequences, options, new Seed(0)), work));
        }
    }

    private static Pretrained load(Fields work, boolean classifies) {
        String model = work.string("model");
        LoadOptions options = LoadOptions.defaults()
                .withPrecision(work.string("precision").equals("bfloat16") ? Precision.BF16 : Precision.FP32);
        if (classifies) {
            List<String> classes =
                    IntStream.range(0, CLASSES).mapToObj(i -> "class " + i).toList();
            return Models.load(model, Purpose.classification(classes), options);
        }
        return Models.load(path(model), Purpose.causalLm(), options);
    }

    /** The file of a model. */
    static Path path(String model) {
        String file = model.equals("smollm2") ? System.getenv("MODEL") : model;
        check(file != null, "set MODEL to a GGUF file of SmolLM2-135M");
        return Path.of(String.valueOf(file));
    }

    private static void attach(AdaptedModel adapted, Pretrained pretrained, Fields work) {
        List<String> kept = new ArrayList<>(pretrained.drawnLayers());
        List<String> names = new ArrayList<>();
        for (int i = 0; i < work.integer("adapters", 1); i++) {
            names.add("adapter" + i);
            adapted.attach(names.get(i), spec(work).withModulesToSave(kept), new Seed(i));
        }
        adapted.activate(names.toArray(String[]::new));
    }

    static AdapterSpec<?> spec(Fields work) {
        String method = work.string("method", "lora");
        Map<String, Object> settings = new LinkedHashMap<>(SETTINGS.get(method));
        if (settings.putIfAbsent("type", method) == null) {
            settings.put("target_modules", Targets.ALL_LINEAR);
        }
        if (work.has("r")) {
            settings.put("r", work.integer("r"));
        }
        return AdapterSpec.read(Fields.of("the benchmark", settings));
    }

    private static List<Integer> lengths(Fields work) {
        String file = work.string("lengths");
        return file.isEmpty()
                ? Collections.nCopies(work.integer("rows") * work.integer("steps"), work.integer("length"))
                : Sequences.lengths(Path.of(file));
    }

    private static Map<String, Object> time(Task task, Map<String, Parameter> trained, Collator data, Fields work) {
        int steps = work.string("lengths").isEmpty() || work.integer("warmup") == 0
                ? work.integer("steps")
                : data.batches(0);
        double[] seconds = new double[steps];
        long tokens = 0;
        double firstStep = Double.NaN;
        ParameterGroup group = new ParameterGroup("all", trained, 1, 0.01);
        task.model().train(true);
        try (Optimizer optimizer = AdamW.Config.DEFAULT.create(List.of(group))) {
            for (int step = -work.integer("warmup"); step < steps; step++) {
                try (Scope scope = Scope.open()) {
                    Batch batch = data.batch(new Collator.Cursor(0, Math.max(step, 0)));
                    long start = System.nanoTime();
                    step(task, optimizer, trained.values(), batch);
                    if (Double.isNaN(firstStep)) {
                        firstStep = Child.secondsSinceStart();
                    }
                    if (step >= 0) {
                        seconds[step] = (System.nanoTime() - start) / 1e9;
                        tokens += batch.tokens();
                    }
                }
            }
        }
        double all = Arrays.stream(seconds).sum();
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put(
                "trainable",
                trained.values().stream().mapToLong(p -> p.tensor().numel()).sum());
        answer.put("first_step_s", firstStep);
        answer.put("step_s", Arrays.stream(seconds).boxed().toList());
        answer.put("step_mean_s", all / steps);
        answer.put(Case.Measure.SPEED, tokens / all);
        answer.put(Case.Measure.MEMORY, Machine.peakResidentBytes() >> 20);
        return answer;
    }

    private static void step(Task task, Optimizer optimizer, Collection<Parameter> trained, Batch batch) {
        try (Scope scope = Scope.open()) {
            task.loss(batch).div(task.units(batch)).backward();
            Parameters.normAndClip(trained, 1);
            optimizer.step(1e-4);
            optimizer.zeroGrad();
        }
    }
}
