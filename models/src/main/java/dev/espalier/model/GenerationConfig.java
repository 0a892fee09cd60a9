package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import java.util.List;
import java.util.Map;

/**
 * How text is generated; names as in Hugging Face's {@code generation_config.json}.
 *
 * @param maxNewTokens at most this many
 * @param doSample whether to draw tokens; otherwise the likeliest is taken, and temperature, topK and topP play no part
 * @param temperature above 0; lower is more certain
 * @param topK only so many of the likeliest tokens are drawn from; 0: all
 * @param topP only the likeliest tokens that together have this probability; in (0, 1], 1: all
 * @param repetitionPenalty what logits of tokens already there are divided by (multiplied, if negative); 1: nothing. Keskar
 *     et al., arXiv:1909.05858
 * @param stopIds tokens that end the text
 */
public record GenerationConfig(
        int maxNewTokens,
        boolean doSample,
        double temperature,
        int topK,
        double topP,
        double repetitionPenalty,
        List<Integer> stopIds) {

    /** Greedy, at most 256 tokens, without stop tokens. */
    public static final GenerationConfig DEFAULT = new GenerationConfig(256, false, 1, 0, 1, 1, List.of());

    /** Checks ranges. */
    public GenerationConfig {
        check(maxNewTokens >= 1, "maxNewTokens must be at least 1, found %d; try 256", maxNewTokens);
        check(
                temperature > 0 && Double.isFinite(temperature),
                "temperature must be positive, found %s; for the likeliest token each time, switch sampling off",
                temperature);
        check(topK >= 0, "topK must be at least 0 (0: all tokens), found %d; try 50", topK);
        check(topP > 0 && topP <= 1, "topP must lie in (0, 1], found %s; try 0.95", topP);
        check(
                repetitionPenalty > 0 && Double.isFinite(repetitionPenalty),
                "repetitionPenalty must be positive, found %s; 1 changes nothing, try 1.1",
                repetitionPenalty);
        stopIds = List.copyOf(stopIds);
    }

    /**
     * Reads {@code generation_config.json}; keys that steer other ways of generating are left alone.
     *
     * @param where the file, for messages
     */
    public static GenerationConfig read(String where, Map<String, Object> json) {
        Fields f = Fields.of(where, json);
        // 50 is transformers' own default, which plays a part only when sampling; null and below 1 mean all.
        int k = ModelConfig.isNull(f, "top_k") ? 0 : Math.max(0, f.integer("top_k", 50));
        return new GenerationConfig(
                f.integer("max_new_tokens", DEFAULT.maxNewTokens),
                f.bool("do_sample", false),
                positiveOr(f.number("temperature", 1), 1),
                k,
                f.number("top_p", 1),
                f.number("repetition_penalty", 1),
                f.integers("eos_token_id", List.of()));
    }

    private static double positiveOr(double value, double otherwise) {
        return value > 0 ? value : otherwise; // 0 is written for "greedy", beside do_sample false
    }

    /** The same with another limit. */
    public GenerationConfig withMaxNewTokens(int limit) {
        return new GenerationConfig(limit, doSample, temperature, topK, topP, repetitionPenalty, stopIds);
    }

    /** The same, taking the likeliest token each time. */
    public GenerationConfig greedy() {
        return new GenerationConfig(maxNewTokens, false, temperature, topK, topP, repetitionPenalty, stopIds);
    }

    /** The same, drawing tokens. */
    public GenerationConfig sampling(double newTemperature, int newTopK, double newTopP) {
        return new GenerationConfig(maxNewTokens, true, newTemperature, newTopK, newTopP, repetitionPenalty, stopIds);
    }

    /** The same with a penalty on tokens already there. */
    public GenerationConfig withRepetitionPenalty(double penalty) {
        return new GenerationConfig(maxNewTokens, doSample, temperature, topK, topP, penalty, stopIds);
    }

    /** The same with other stop tokens. */
    public GenerationConfig withStopIds(List<Integer> ids) {
        return new GenerationConfig(maxNewTokens, doSample, temperature, topK, topP, repetitionPenalty, ids);
    }
}
