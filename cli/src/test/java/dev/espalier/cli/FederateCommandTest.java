package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class FederateCommandTest {

    @TempDir
    private Path folder;

    private Path recipe;
    private Path out;

    @BeforeEach
    void write() {
        Path model = Cli.bert(folder.resolve("model"));
        Path data = Cli.data(folder.resolve("data.csv"));
        out = folder.resolve("out");
        recipe = Cli.write(folder.resolve("recipe.yaml"), """
                model: %s
                task: {type: classification, data: %s, heldOut: 0.25}
                adapter: {type: lora, r: 2, targets: [query, value]}
                federate: {type: fedsvd, clients: 2, rounds: 3, localSteps: 2, batch: 4, concentration: 50}
                train: {seed: 3}
                out: %s
                """.formatted(model, data, out));
    }

    private Cli.Result federate(String... settings) {
        List<String> args = new ArrayList<>(List.of("federate", recipe.toString()));
        for (String setting : settings) {
            args.add("--set");
            args.add(setting);
        }
        return Cli.run(args.toArray(String[]::new));
    }

    @Test
    void printsARoundALineAndSavesAPlainLora() throws IOException {
        Cli.Result result = federate();
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err())
                .contains(
                        "examples of each client: ", "noise of each client, in clip norms: ", "each client drawn sends")
                .containsPattern(
                        "round 1/3  clients \\d  loss \\d\\.\\d{4}  held-out accuracy \\d\\.\\d{4}  epsilon \\d\\.\\d{3}")
                .contains("round 3/3");
        assertThat(result.out()).contains("completed 3 rounds", "at delta 1.0E-5", "Renyi", "saved:");
        assertThat(Json.read(out.resolve("adapter_config.json")))
                .containsEntry("peft_type", "LORA")
                .containsEntry("r", 2L)
                .containsEntry("init_lora_weights", true);
        Map<String, Object> record = Json.read(out.resolve("run.json"));
        assertThat(record)
                .containsEntry("status", "completed")
                .containsEntry("rounds", 3L)
                .containsKeys("epsilon", "delta", "accountant", "noise_multipliers", "client_examples");
        assertThat((double) record.get("epsilon")).isPositive().isLessThanOrEqualTo(6);
        assertThat(Files.readAllLines(out.resolve("metrics.jsonl")))
                .hasSize(3)
                .allMatch(line -> line.contains("\"eval_accuracy\":") && line.contains("\"epsilon\":"));
        Cli.Result predicted = Cli.run("predict", "--adapter", out.toString(), "where is my order");
        assertThat(predicted.code()).as(predicted.err()).isZero();
    }

    @Test
    void oneSeedGivesTheSameAdapter() throws IOException {
        assertThat(federate().code()).isZero();
        Path again = folder.resolve("again");
        assertThat(federate("out=" + again).code()).isZero();
        assertThat(again.resolve("adapter_model.safetensors"))
                .hasSameBinaryContentAs(out.resolve("adapter_model.safetensors"));
        assertThat(Files.readString(again.resolve("metrics.jsonl")))
                .isEqualTo(Files.readString(out.resolve("metrics.jsonl")));
    }

    @Test
    void withoutPrivacyAndWithAnotherRuleAndOptimizer() {
        Cli.Result result = federate(
                "federate={type: fedavg, clients: 2, rounds: 1, epsilon: 0, concentration: 50}",
                "train.optimizer=adamw");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err()).contains("epsilon none");
        assertThat(result.out()).contains("none; set federate.epsilon");
    }

    @Test
    void badInputIsSaidInASentence() {
        assertThat(federate("federate.clients=20").complaint())
                .containsPattern("client \\d of 20 has no data: 9 examples of 2 labels");
        assertThat(federate("federate.epsilon=0.01").complaint())
                .contains("epsilon 0.01 cannot be reached at delta 1.0E-5");
        assertThat(federate("federate.type=lora").complaint())
                .contains("federate.type is lora, which is of the kind \"adapter\" and has no place there; try fedsvd");
        assertThat(federate("federate.round=3").complaint())
                .contains("federate.round is not a field; did you mean rounds?");
        assertThat(federate("train.epochs=3").complaint()).contains("train.epochs has no meaning for a federation");
        assertThat(federate("adapter.type=dora").complaint())
                .contains("a federation trains plain lora, found dora; set adapter.type to lora");
        assertThat(out).doesNotExist();
        assertThat(Cli.run("train", recipe.toString()).complaint())
                .isEqualTo("espalier: the recipe has a section federate; carry it out by espalier federate");
        assertThat(Cli.run(
                                "federate",
                                "lora",
                                "--set",
                                "model=m",
                                "--set",
                                "task={type: regression, data: d}",
                                "--out",
                                "x")
                        .complaint())
                .isEqualTo(
                        "espalier: the recipe has no section federate; write one, or carry it out by espalier train");
    }

    /** A pretrained model and real texts: two clients, three classes of tickets, the loss falls round by round. */
    @Test
    void learnsOnAPretrainedModel() throws IOException {
        Path train =
                Path.of(System.getProperty("espalier.root", ".."), "recipes/src/main/resources/quickstart/train.csv");
        List<String> rows = Files.readAllLines(train);
        List<String> labels = rows.stream()
                .skip(1)
                .map(row -> row.substring(row.lastIndexOf(',') + 1))
                .distinct()
                .limit(3)
                .toList();
        List<String> some = new ArrayList<>(List.of(rows.get(0)));
        rows.stream()
                .filter(row -> labels.contains(row.substring(row.lastIndexOf(',') + 1)))
                .limit(60)
                .forEach(some::add);
        Path data = Cli.write(folder.resolve("tickets.csv"), String.join("\n", some) + "\n");
        Cli.Result result = Cli.run(
                "federate",
                "fedsvd",
                "--set",
                "model=minilm",
                "--set",
                "task={type: classification, data: %s, heldOut: 0.2}".formatted(data),
                "--set",
                "federate={type: fedsvd, clients: 2, fraction: 1, rounds: 3, localSteps: 3, batch: 8, epsilon: 0, learningRate: 20, concentration: 5}",
                "--out",
                out.toString());
        assertThat(result.code()).as(result.err()).isZero();
        double[] losses = Files.readAllLines(out.resolve("metrics.jsonl")).stream()
                .mapToDouble(line -> (double) Json.parse("metrics", line).get("loss"))
                .toArray();
        assertThat(losses[2]).isLessThan(losses[0]);
    }
}
