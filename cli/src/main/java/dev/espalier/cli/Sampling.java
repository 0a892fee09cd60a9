package dev.espalier.cli;

import dev.espalier.model.GenerationConfig;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** How text is generated; what is not given is as the model's authors set it, but greedy. */
final class Sampling {

    @Option(names = "--max-new-tokens", paramLabel = "N", description = "stop after so many tokens (default: 256)")
    private int maxNewTokens = 256;

    @Option(
            names = "--temperature",
            paramLabel = "T",
            description = "draw tokens; lower is more certain (default: greedy)")
    private @Nullable Double temperature;

    @Option(names = "--top-k", paramLabel = "K", description = "draw from the K likeliest tokens")
    private @Nullable Integer topK;

    @Option(
            names = "--top-p",
            paramLabel = "P",
            description = "draw from the likeliest tokens of probability P together")
    private @Nullable Double topP;

    @Option(names = "--repetition-penalty", paramLabel = "R", description = "above 1: avoid what was said (default: 1)")
    private double repetitionPenalty = 1;

    @Option(names = "--seed", paramLabel = "S", description = "of the draws (default: 0)")
    private long seed;

    long seed() {
        return seed;
    }

    GenerationConfig over(GenerationConfig own) {
        GenerationConfig base = own.withMaxNewTokens(maxNewTokens).withRepetitionPenalty(repetitionPenalty);
        if (temperature == null && topK == null && topP == null) {
            return base.greedy();
        }
        return base.sampling(temperature == null ? 1 : temperature, topK == null ? 0 : topK, topP == null ? 1 : topP);
    }
}
