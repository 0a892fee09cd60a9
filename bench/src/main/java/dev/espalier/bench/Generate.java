package dev.espalier.bench;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.model.GenerationConfig;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.model.TextGenerator;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Seed;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Random;

/**
 * Times greedy generation by SmolLM2-135M in float32, one sequence. The peer is {@code bench/peers/generate.py}.
 *
 * <pre>{@code java ... dev.espalier.bench.Generate '{"prompt": 32, "tokens": 128, "steps": 5}'}</pre>
 *
 * <p>{@code prompt} random tokens are continued by {@code tokens}, {@code steps} times after once to warm up. With {@code
 * adapter} LoRA stands on all linears, with {@code merged} it is folded into them.
 */
public final class Generate {

    private Generate() {}

    /** Prints one JSON line: tokens per second, peak resident memory. */
    public static void main(String[] args) {
        Fields work = Fields.of("the work", Json.parse("the work", args[0]));
        LoadOptions options = LoadOptions.defaults().withPrecision(Precision.FP32);
        try (Pretrained pretrained = Models.load(AdapterStep.path("smollm2"), Purpose.causalLm(), options);
                AdaptedModel adapted = AdaptedModel.of(pretrained.model())) {
            if (work.bool("adapter", false)) {
                adapted.attach("default", AdapterStep.spec(work), new Seed(0));
            }
            if (work.bool("merged", false)) {
                adapted.merge();
            }
            int tokens = work.integer("tokens");
            int steps = work.integer("steps");
            int[] prompt = new Random(0)
                    .ints(work.integer("prompt"), 0, pretrained.model().config().vocabSize())
                    .toArray();
            TextGenerator generator = new TextGenerator(pretrained.causalLm());
            GenerationConfig config = GenerationConfig.DEFAULT.withMaxNewTokens(tokens); // greedy, no end before that
            generator.generate(prompt, config, new Seed(0));
            long start = System.nanoTime();
            for (int step = 0; step < steps; step++) {
                generator.generate(prompt, config, new Seed(0));
            }
            Map<String, Object> answer = new LinkedHashMap<>();
            answer.put(Case.Measure.SPEED, tokens * steps * 1e9 / (System.nanoTime() - start));
            answer.put(Case.Measure.MEMORY, Machine.peakResidentBytes() >> 20);
            Child.answer(answer);
        }
    }
}
