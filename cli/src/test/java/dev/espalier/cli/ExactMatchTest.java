package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Answers of a language model, counted by {@code evaluate --exact-match}. */
class ExactMatchTest {

    @TempDir
    private Path folder;

    @Test
    void exactMatchCountsAnswersThatAreRightToTheLetter() throws Exception {
        Path model = Cli.llama(folder.resolve("llama"));
        Path tokenizer = model.resolve("tokenizer.json"); // of twenty words, and a random model says any of its 67
        String more = IntStream.range(20, 67)
                .mapToObj(i -> ", \"word%d\": %d".formatted(i, i))
                .collect(Collectors.joining());
        Files.writeString(
                tokenizer, Files.readString(tokenizer).replace("}, \"unk_token\"", more + "}, \"unk_token\""));
        Cli.Result generated = Cli.run(
                "generate", "where is my", "--model", model.toString(), "--raw", "--max-new-tokens", "3", "--json");
        assertThat(generated.code()).as(generated.err()).isZero();
        String answer = (String) Json.parse("answer", generated.out()).get("text");
        Path data = Cli.write(
                folder.resolve("data.jsonl"),
                Json.text(Map.of("prompt", "where is my", "completion", " " + answer)) + "\n"
                        + Json.text(Map.of("prompt", "where is my", "completion", "refund")) + "\n");
        Cli.Result judged = Cli.run(
                "evaluate",
                "--model",
                model.toString(),
                "--data",
                data.toString(),
                "--exact-match",
                "--max-new-tokens",
                "3",
                "--json");
        assertThat(judged.code()).as(judged.err()).isZero();
        assertThat((Map<?, ?>) Json.parse("result", judged.out()).get("metrics"))
                .extracting("exact_match")
                .isEqualTo(0.5);
    }
}
