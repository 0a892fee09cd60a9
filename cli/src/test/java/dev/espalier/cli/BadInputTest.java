package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Whatever is wrong with the input: exit code 1, one sentence that says what, where and what to do, nothing written. */
class BadInputTest {

    @TempDir
    private Path folder;

    private Path model;
    private Path out;

    @BeforeEach
    void makeModel() {
        model = Cli.bert(folder.resolve("model"));
        out = folder.resolve("out");
    }

    private Cli.Result train(Path data, String... settings) {
        Path recipe = Cli.recipe(folder.resolve("recipe.yaml"), model, data, out);
        List<String> args = new ArrayList<>(List.of("train", recipe.toString()));
        for (String setting : settings) {
            args.add("--set");
            args.add(setting);
        }
        return Cli.run(args.toArray(String[]::new));
    }

    private void failsWith(Cli.Result result, String... parts) {
        assertThat(result.code()).as(result.err()).isEqualTo(1);
        assertThat(result.complaint()).contains(parts);
        assertThat(result.complaint().lines()).hasSize(1);
        assertThat(result.err()).doesNotContain("\tat ");
    }

    private void writesNothing(Cli.Result result, String... parts) {
        failsWith(result, parts);
        assertThat(out).doesNotExist();
    }

    @Test
    void unknownKeysNameTheNearest() {
        Path data = Cli.data(folder.resolve("data.csv"));
        writesNothing(
                train(data, "train.learningRat=1"), "recipe.yaml", "train.learningRat", "did you mean learningRate?");
        writesNothing(train(data, "adapter.lora_alfa=1"), "adapter.lora_alfa", "did you mean lora_alpha?");
        writesNothing(train(data, "task.type=classify"), "task.type", "classification, regression or causal-lm");
        writesNothing(train(data, "train.epochs=many"), "train.epochs", "many");
        writesNothing(train(data, "adapter.targets=[qery]"), "qery", "did you mean query?");
        writesNothing(Cli.run("train", "lorra"), "there is no recipe lorra", "did you mean lora?");
        writesNothing(Cli.run("train", "nothing.yaml"), "nothing.yaml does not exist");
    }

    @Test
    void missingColumn() {
        writesNothing(train(Cli.write(folder.resolve("d.csv"), "body,label\nhello,a\n")), "d.csv", "text");
    }

    @Test
    void emptyFile() {
        writesNothing(train(Cli.write(folder.resolve("d.csv"), "")), "d.csv", "no rows");
        writesNothing(train(Cli.write(folder.resolve("e.csv"), "text,label\n")), "e.csv", "no rows");
    }

    @Test
    void malformedLineIsNumbered() {
        writesNothing(
                train(Cli.write(folder.resolve("d.jsonl"), "{\"text\": \"a\", \"label\": \"b\"}\n{\"text\": \n")),
                "d.jsonl:2");
    }

    @Test
    void textThatIsNotUtf8() throws IOException {
        Path data = folder.resolve("d.csv");
        Files.write(data, "text,label\nTür,a\n".getBytes(StandardCharsets.ISO_8859_1));
        writesNothing(train(data), "d.csv", "UTF-8");
    }

    @Test
    void textLongerThanTheModel() {
        Path data = Cli.write(folder.resolve("d.csv"), "text,label\n" + "order ".repeat(40) + ",a\nmoney,b\n");
        writesNothing(train(data, "task.heldOut=0"), "d.csv:2", "40 tokens", "the model takes 34", "truncate");
    }

    @Test
    void labelUnseenInTraining() {
        assertThat(train(Cli.data(folder.resolve("data.csv"))).code()).isZero();
        Path other = Cli.write(folder.resolve("test.csv"), "text,label\nwhere is it,lost\n");
        failsWith(
                Cli.run("evaluate", "--adapter", out.toString(), "--data", other.toString()),
                "test.csv:2",
                "\"lost\" does not occur in the training data");
    }

    @Test
    void vocabularyMismatch() {
        Path file = folder.resolve("logits.safetensors");
        failsWith(
                Cli.run("probe", "--model", model.toString(), "--ids", "1,670", "--out", file.toString()),
                "token id 670",
                "vocabulary of 67");
        assertThat(file).doesNotExist();
    }

    @Test
    void adapterForAnotherBase() throws IOException {
        assertThat(train(Cli.data(folder.resolve("data.csv"))).code()).isZero();
        Path llama = Cli.llama(folder.resolve("llama"));
        failsWith(
                Cli.run("predict", "--adapter", out.toString(), "--model", llama.toString(), "where"),
                "was trained on " + model,
                "checksum");
        Files.delete(out.resolve("espalier.json")); // as PEFT leaves it: names and shapes must tell
        failsWith(Cli.run("predict", "--adapter", out.toString(), "--model", llama.toString(), "where"), "bert");
    }

    @Test
    void truncatedSafetensors() throws IOException {
        Path weights = model.resolve("model.safetensors");
        byte[] bytes = Files.readAllBytes(weights);
        Files.write(weights, java.util.Arrays.copyOf(bytes, bytes.length / 2));
        writesNothing(train(Cli.data(folder.resolve("data.csv"))), "model.safetensors");
    }

    @Test
    void lossThatIsNotFiniteNamesStepAndExamples() {
        Cli.Result result = train(Cli.data(folder.resolve("data.csv")), "train.learningRate=1.0e+30", "train.clip=0");
        failsWith(result, "step", "data.csv:", "lower the learning rate");
        assertThat(out.resolve("adapter_model.safetensors")).doesNotExist();
    }

    @Test
    void outputFolderThatHoldsSomething() throws IOException {
        Files.createDirectories(out);
        Path kept = Cli.write(out.resolve("mine.txt"), "mine");
        failsWith(train(Cli.data(folder.resolve("data.csv"))), "is not empty", "--resume");
        assertThat(kept).hasContent("mine");
        Cli.Result quickstart = Cli.run("quickstart", "--out", out.toString());
        failsWith(quickstart, "mine.txt", "--out");
        assertThat(kept).hasContent("mine");
    }

    @Test
    void outputThatCannotBeWritten() {
        Path file = Cli.write(folder.resolve("file"), "");
        Path data = Cli.data(folder.resolve("data.csv"));
        failsWith(train(data, "out=" + file), "is a file");
        failsWith(train(data, "out=" + file.resolve("below")), "file");
    }

    @Test
    void unexpectedFaultsAreSaidInASentenceTooAndDebugShowsWhere() {
        Cli.Result quiet = Cli.run("train", "nothing.yaml");
        assertThat(quiet.err()).doesNotContain("EspalierException");
        Cli.Result loud = Cli.run("train", "nothing.yaml", "--debug");
        assertThat(loud.err()).contains("EspalierException", "\tat dev.espalier");
    }
}
