package dev.espalier.bench;

import dev.espalier.bench.Case.Group;
import dev.espalier.bench.Case.Measure;
import dev.espalier.bench.Case.Side;
import dev.espalier.tensor.Machine;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;

/** All the work that is compared. */
final class Cases {

    /**
     * A training step where nothing else is said: LoRA on SmolLM2's shape, a batch of 4 rows of 256 tokens, all of them with a
     * loss. Both {@link AdapterStep} and {@code peft_step.py} read these keys; {@code lengths} names a file of {@code bench/data}
     * whose rows are then trained on once, instead of a number of steps.
     */
    static final Map<String, Object> STEP = Map.of(
            "model",
            "smollm2",
            "method",
            "lora",
            "precision",
            "float32",
            "checkpointing",
            false,
            "supervised",
            1.0,
            "rows",
            4,
            "length",
            256,
            "lengths",
            "",
            "warmup",
            1);

    private static final double ANY = Double.POSITIVE_INFINITY;
    private static final String LOG_NORMAL = "bench/data/lognormal.json";
    private static final String QUICKSTART = "bench/data/quickstart.json";

    private Cases() {}

    /** By name, in the table's order. */
    static Map<String, Case> all() {
        Map<String, Case> cases = new LinkedHashMap<>();
        for (Case c : List.of(
                peft("lora", "LoRA, r 8", Map.of(), 1.4, 0.5),
                peft("lora-bf16", "LoRA, r 8, base in bfloat16", Map.of("precision", "bfloat16"), 1.7, 0.6)
                        .unless(!Machine.hasBfloat16(), "this processor has no bfloat16 arithmetic"),
                peft(
                        "lora-checkpointing",
                        "LoRA, r 8, activations recomputed",
                        Map.of("checkpointing", true),
                        1.1,
                        0.35),
                lengths(),
                peft("lora-chat", "LoRA, r 8, loss on 40 % of the tokens", Map.of("supervised", 0.4), 1.5, ANY),
                peft("dora", "DoRA, r 8", Map.of("method", "dora"), 1.4, 0.4),
                peft("randlora", "RandLoRA, r 32", Map.of("method", "randlora"), 1.3, ANY),
                peft("oft", "OFT, blocks of 32", Map.of("method", "oft"), 1.3, ANY),
                peft("miss", "MiSS, r 64", Map.of("method", "bone"), 1.3, ANY),
                peft("vera", "VeRA, r 256", Map.of("method", "vera"), 1.3, ANY),
                peft(
                        "minilm",
                        "MiniLM, classification, LoRA r 8, batches of 32 of the quickstart's sentences grouped by length",
                        Map.of("model", "minilm", "rows", 32, "lengths", QUICKSTART),
                        1.5,
                        ANY),
                generation(),
                start(),
                merged(),
                adapters(),
                optimizer("galore", "GaLore, r 128", GALORE),
                optimizer("lisa", "LISA, 2 layers", LISA),
                optimizer("frugal", "FRUGAL, density 0.25", FRUGAL),
                launcher())) {
            cases.put(c.name(), c);
        }
        return cases;
    }

    private static Case peft(String name, String what, Map<String, Object> work, double speed, double memory) {
        return new Case(
                name,
                Group.TRAINING,
                what,
                Side.java("espalier", AdapterStep.class, with(STEP, work)),
                Side.python("peft", "peft_step.py", with(STEP, work)),
                List.of(Measure.speed(speed), Measure.memory(memory)),
                null);
    }

    /** Here each side arranges the same sequences as its users have them arranged, in steps of about a thousand tokens. */
    private static Case lengths() {
        return new Case(
                "lora-lengths",
                Group.TRAINING,
                "LoRA, r 8, lengths log-normal with median 60 in 8 to 256: packed against grouped by length and padded",
                Side.java("espalier", AdapterStep.class, with(STEP, Map.of("lengths", LOG_NORMAL, "packed", 256))),
                Side.python("peft", "peft_step.py", with(STEP, Map.of("lengths", LOG_NORMAL, "rows", 16))),
                List.of(Measure.speed(1.5), Measure.memory(ANY)),
                null);
    }

    private static Case generation() {
        Map<String, Object> work = Map.of("prompt", 32, "tokens", 128);
        return new Case(
                "generate",
                Group.USE,
                "SmolLM2, greedy, 128 tokens after 32, one sequence",
                Side.java("espalier", Generate.class, work),
                Side.python("transformers", "generate.py", work),
                List.of(Measure.speed(1.5), Measure.memory(ANY)),
                null);
    }

    private static Case start() {
        Map<String, Object> work =
                with(STEP, Map.of("model", "minilm", "rows", 8, "lengths", QUICKSTART, "warmup", 0, "steps", 1));
        return new Case(
                "start",
                Group.USE,
                "from the process's start to the end of a first step of MiniLM, LoRA r 8, 8 rows (the peer's weights are drawn)",
                Side.java("espalier", AdapterStep.class, work),
                Side.python("peft", "peft_step.py", work),
                List.of(new Measure("first_step_s", "s", 0, 0.6), Measure.memory(ANY)),
                null);
    }

    private static Case merged() {
        Map<String, Object> work = Map.of("prompt", 32, "tokens", 128);
        return new Case(
                "generate-merged",
                Group.ITSELF,
                "SmolLM2, greedy, 128 tokens after 32: LoRA r 8 on all linears against the same merged",
                Side.java("unmerged", Generate.class, with(work, Map.of("adapter", true))),
                Side.java("merged", Generate.class, with(work, Map.of("adapter", true, "merged", true))),
                List.of(new Measure(Measure.SPEED, "tokens/s", 0.9, ANY)),
                null);
    }

    private static Case adapters() {
        return new Case(
                "lora-frozen",
                Group.ITSELF,
                "step of LoRA, r 8, against a forward and backward of the network in which only the first norm trains",
                Side.java("lora", AdapterStep.class, STEP),
                Side.java("frozen", AdapterStep.class, with(STEP, Map.of("method", "none"))),
                List.of(new Measure("step_mean_s", "s a step", 0, 1.1), Measure.memory(ANY)),
                null);
    }

    // ---- optimisers that remember less

    // Numbers of SmolLM2-135M: a block has q and o [576, 576], k and v [192, 576], gate, up and down [1536, 576] or
    // turned
    // round, and two norms; beside the 30 blocks there are the embedding, which is the head too, and the last norm.
    private static final double LINEAR = 30 * (2.0 * 576 * 576 + 2.0 * 192 * 576 + 3.0 * 1536 * 576);
    private static final double TABLE = 49152.0 * 576 + 576;
    private static final double OTHER = TABLE + 30 * 2.0 * 576;
    private static final double ADAMW = 2 * (LINEAR + OTHER);

    /** As its specification says: r short + 2 r long numbers a matrix, AdamW's for all else. */
    private static final double GALORE =
            (30 * 128 * (2 * (576.0 + 2 * 576) + 2 * (192.0 + 2 * 576) + 3 * (576.0 + 2 * 1536)) + 2 * OTHER) / ADAMW;

    /** AdamW's for table, last norm and the two blocks that train. */
    private static final double LISA = 2 * (TABLE + 2 * (LINEAR / 30 + 2 * 576)) / ADAMW;

    /** AdamW's for a quarter of the matrices' columns and for all else. */
    private static final double FRUGAL = (2 * 0.25 * LINEAR + 2 * OTHER) / ADAMW;

    private static Case optimizer(String recipe, String what, double share) {
        return new Case(
                "optimizer-" + recipe,
                Group.ITSELF,
                "SmolLM2, all weights: " + what + ", against AdamW",
                Side.java(recipe, RecipeRun.class, Map.of("recipe", recipe)),
                Side.java("adamw", RecipeRun.class, Map.of("recipe", "full")),
                List.of(new Measure("optimizer_mib", "optimiser's MiB", 0.9 * share, 1.1 * share), Measure.memory(ANY)),
                null);
    }

    // ---- the launcher

    private static Case launcher() {
        return new Case(
                "launcher",
                Group.ITSELF,
                "step of LoRA, r 8: plain java against java as ./espalier starts it",
                Side.java("library", AdapterStep.class, STEP),
                Side.java("launcher", AdapterStep.class, STEP, launcherOptions()),
                List.of(Measure.speed(0.95), Measure.memory(ANY)),
                null);
    }

    private static String[] launcherOptions() {
        try {
            return Pattern.compile("-XX:\\S+")
                    .matcher(Files.readString(Path.of("espalier")))
                    .results()
                    .map(found -> found.group())
                    .toArray(String[]::new);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static Map<String, Object> with(Map<String, Object> work, Map<String, Object> others) {
        Map<String, Object> both = new LinkedHashMap<>(work);
        both.putAll(others);
        return both;
    }
}
