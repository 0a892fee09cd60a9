package dev.espalier.bench;

import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Run;
import java.io.IOException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Trains all weights of SmolLM2-135M for a few steps on the sample chats by a recipe that comes with Espalier, and tells what
 * that took in memory.
 *
 * <pre>{@code java ... dev.espalier.bench.RecipeRun '{"recipe": "galore", "steps": 5}'}</pre>
 */
public final class RecipeRun {

    private RecipeRun() {}

    /** Prints one JSON line: what the optimiser remembers, peak resident memory, tokens per second. */
    public static void main(String[] args) throws IOException {
        Fields work = Fields.of("the work", Json.parse("the work", args[0]));
        Path folder = Folders.temporary("recipe");
        Path out = folder.resolve("out");
        try {
            Recipe recipe = Recipe.read(
                    work.string("recipe"),
                    List.of(
                            "model=" + AdapterStep.path("smollm2"),
                            "task.type=causal-lm",
                            "task.data=recipes/src/main/resources/samples/chat-train.jsonl",
                            "task.maxLength=64",
                            "task.truncate=true",
                            "train.precision=fp32",
                            "train.batch=1",
                            "train.steps=" + work.integer("steps"),
                            "out=" + out));
            try (Run run = Run.prepare(recipe)) {
                run.train();
            }
            Fields record = Fields.of("run.json", Json.read(out.resolve("run.json")));
            Map<String, Object> answer = new LinkedHashMap<>();
            answer.put("trainable", record.longInteger("trainable_parameters"));
            answer.put("optimizer_mib", record.longInteger("optimizer_bytes") / (double) (1 << 20));
            answer.put(Case.Measure.SPEED, record.number("tokens_per_second"));
            answer.put(Case.Measure.MEMORY, record.longInteger("peak_resident_bytes") >> 20);
            Child.answer(answer);
        } finally {
            Folders.delete(folder);
        }
    }
}
