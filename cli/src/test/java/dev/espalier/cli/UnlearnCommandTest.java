package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class UnlearnCommandTest {

    @TempDir
    private Path folder;

    private Path recipe;
    private Path out;

    @BeforeEach
    void write() {
        Path model = Cli.llama(folder.resolve("model"));
        Path forget = Cli.write(folder.resolve("forget.jsonl"), rows("where is my order", "it is late", 6));
        Path retain = Cli.write(folder.resolve("retain.jsonl"), rows("money back please", "i want the refund", 9));
        out = folder.resolve("out");
        recipe = Cli.write(folder.resolve("recipe.yaml"), """
                model: %s
                task: {type: causal-lm, forget: %s, retain: %s, heldOut: 0.2}
                adapter: {type: lora, r: 2, lora_alpha: 4, targets: [q_proj, down_proj], initializer: {type: fila}}
                unlearn: {type: loku}
                train: {epochs: 2, batch: 2, learningRate: 1.0e-3, logEvery: 1, clip: 0}
                out: %s
                """.formatted(model, forget, retain, out));
    }

    private static String rows(String prompt, String completion, int count) {
        StringBuilder rows = new StringBuilder();
        for (int i = 0; i < count; i++) {
            rows.append("{\"prompt\": \"%s%s\", \"completion\": \" %s\"}\n"
                    .formatted(prompt, " please".repeat(i % 3), completion));
        }
        return rows.toString();
    }

    private Cli.Result unlearn(String... settings) {
        List<String> args = new ArrayList<>(List.of("unlearn", recipe.toString()));
        for (String setting : settings) {
            args.add("--set");
            args.add(setting);
        }
        return Cli.run(args.toArray(String[]::new));
    }

    @Test
    void printsBothSidesBeforeAndAfterAndSavesAPlainLoraOfTwiceTheRank() {
        Cli.Result result = unlearn();
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err())
                .contains("to forget: ", "to retain: ")
                .containsPattern("before:  forget loss \\d+\\.\\d{4}, probability of a token 0\\.\\d{4}; retain loss");
        assertThat(result.out())
                .contains("completed 6 steps", "probability of a token", "token accuracy")
                .contains("forget, before", "forget, after", "retain, before", "retain, after", "saved:");
        assertThat(Json.read(out.resolve("adapter_config.json")))
                .containsEntry("peft_type", "LORA")
                .containsEntry("r", 4L)
                .containsEntry("lora_alpha", 8L)
                .containsEntry("init_lora_weights", true);
        assertThat(Json.read(out.resolve("run.json")))
                .containsEntry("status", "completed")
                .extracting("hashes")
                .asString()
                .contains("forgotten data");
        Cli.Result judged = Cli.run(
                "evaluate",
                "--adapter",
                out.toString(),
                "--data",
                folder.resolve("retain.jsonl").toString());
        assertThat(judged.code()).as(judged.err()).isZero();
        assertThat(judged.out()).contains("perplexity");
    }

    @Test
    void theReferencesRunWithEveryTerm() {
        for (String method : List.of("ga", "npo", "loku")) {
            for (String retain : List.of("none", "ce", "kl")) {
                Path own = folder.resolve(method + retain);
                Cli.Result result = unlearn(
                        "unlearn={type: %s, retain: %s}".formatted(method, retain),
                        "adapter.initializer={}",
                        "train.epochs=1",
                        "out=" + own);
                assertThat(result.code())
                        .as(method + " " + retain + result.err())
                        .isZero();
                assertThat(own.resolve("adapter_model.safetensors")).exists();
            }
        }
    }

    /** What is drawn to be retained, too. */
    @Test
    void oneSeedGivesTheSameAdapter() {
        assertThat(unlearn().code()).isZero();
        Path again = folder.resolve("again");
        assertThat(unlearn("out=" + again).code()).isZero();
        assertThat(again.resolve("adapter_model.safetensors"))
                .hasSameBinaryContentAs(out.resolve("adapter_model.safetensors"));
    }

    @Test
    void jsonHasBothStates() {
        Cli.Result result = Cli.run("unlearn", recipe.toString(), "--json");
        assertThat(result.code()).as(result.err()).isZero();
        Map<String, Object> facts = Json.parse("unlearn", result.out());
        assertThat(facts)
                .containsEntry("status", "completed")
                .containsKeys("forget_before", "forget_after", "retain_before", "retain_after");
    }

    @Test
    void badInputIsSaidInASentence() {
        assertThat(unlearn("unlearn.type=lora").complaint())
                .contains("unlearn.type is lora, which is of the kind \"adapter\" and has no place there; try loku");
        assertThat(unlearn("unlearn.beta=1").complaint()).contains("unlearn.beta is not a field");
        assertThat(unlearn("unlearn={type: npo, beta: 0}").complaint())
                .contains("beta must be above 0 and finite, found 0.0; try 0.1");
        assertThat(unlearn("unlearn.retainWeight=-1").complaint())
                .contains("retainWeight must be at least 0 and finite, found -1.0; try 1");
        assertThat(unlearn("adapter.initializer.eps=0").complaint())
                .contains("eps must be above 0 and finite, found 0.0; try 1e-5");
        assertThat(unlearn("task.retain=nothing.jsonl").complaint())
                .contains("task.retain: nothing.jsonl does not exist; check the path");
        assertThat(unlearn("task={type: causal-lm, data: %s}".formatted(folder.resolve("retain.jsonl")))
                        .complaint())
                .contains("the recipe does not say what to forget; set task.forget");
        assertThat(out).doesNotExist();
        assertThat(Cli.run("train", recipe.toString()).complaint())
                .isEqualTo("espalier: the recipe has a section unlearn; carry it out by espalier unlearn");
        Path data = folder.resolve("retain.jsonl");
        Cli.Result alone = Cli.run(
                "train",
                "lora",
                "--set",
                "model=" + folder.resolve("model"),
                "--set",
                "task={type: causal-lm, data: %s}".formatted(data),
                "--set",
                "adapter.initializer.type=fila",
                "--out",
                out.toString());
        assertThat(alone.complaint()).contains("FILA weighs data to be forgotten against data to be retained");
    }
}
