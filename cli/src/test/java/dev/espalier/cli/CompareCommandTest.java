package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.compare.MethodResult;
import dev.espalier.compare.RunResult;
import dev.espalier.compare.RunResult.Measured;
import dev.espalier.compare.StudyResult;
import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CompareCommandTest {

    @TempDir
    private Path folder;

    /** Two methods, two seeds, two steps, on the built-in model: real processes from the plan to the results. */
    @Test
    void aSmallStudyRunsFromOneCommandAndRepeatsItself() throws Exception {
        Path train = Cli.write(folder.resolve("train.csv"), rows(16));
        Path test = Cli.write(folder.resolve("test.csv"), rows(6));
        Path out = folder.resolve("study");
        List<String> command = new ArrayList<>(List.of(
                "compare",
                "minilm",
                "--set",
                "task={type: classification, train: " + train + ", validation: 0.25, test: " + test + "}",
                "--set",
                "methods=[lora, prompt-tuning]",
                "--set",
                "seeds=[0, 1]",
                "--set",
                "equal.steps=2",
                "--set",
                "train={batch: 8, logEvery: 1}",
                "--set",
                "learningRateFactors=[1]",
                "--set",
                "layers=false",
                "--out",
                out.toString()));
        Cli.Result first = Cli.run(command.toArray(String[]::new));
        assertThat(first.code()).as(first.err()).isZero();
        assertThat(first.out()).contains("prompt-tuning").contains("results.json");
        assertThat(out.resolve("report.html")).content().contains("<html");
        StudyResult result = StudyResult.read(out.resolve("results.json"));
        for (MethodResult row : result.methods()) {
            for (RunResult run : row.runs()) {
                Measured m = run.measured();
                Map<String, Object> record = Json.read(out.resolve(run.folder()).resolve("run.json"));
                assertThat(record).containsEntry("steps", m.steps()).containsEntry("seed", run.seed());
                assertThat(record).containsEntry("peak_resident_bytes", m.peakResidentBytes());
                assertThat(m.curve()).hasSize(2);
                assertThat(m.metrics()).containsKeys("accuracy", "loss");
                assertThat(m.metric()).isEqualTo(m.metrics().get("accuracy"));
            }
        }
        Measured lora = result.reference().runs().get(1).measured();
        assertThat(lora.mergeError()).isLessThan(1e-4);
        Measured prompt = result.method("prompt-tuning").runs().get(0).measured();
        assertThat(prompt.mergeError()).isNull();
        assertThat(prompt.unmergeable()).contains("cannot be merged");
        assertThat(result.terms().baseMetric()).isBetween(0.5, 1.0); // class means tell these apart

        delete(out.resolve("runs/lora/lr-0.0002/seed-1"));
        command.add("--resume");
        Cli.Result second = Cli.run(command.toArray(String[]::new));
        assertThat(second.code()).as(second.err()).isZero();
        Measured again = StudyResult.read(out.resolve("results.json"))
                .reference()
                .runs()
                .get(1)
                .measured();
        assertThat(again.metrics()).isEqualTo(lora.metrics());
        assertThat(again.curve()).isEqualTo(lora.curve());
    }

    private static String rows(int count) {
        StringBuilder rows = new StringBuilder("text,label\n");
        for (int i = 0; i < count; i++) {
            rows.append(
                    (i % 2 == 0 ? "where is parcel %d,parcel\n" : "refund of %d euros please,money\n").formatted(i));
        }
        return rows.toString();
    }

    @Test
    void badStudiesAreRefusedInASentence() {
        assertThat(Cli.run("compare", "minilm", "--set", "methods=[lora, peft]", "--out", folder + "/x")
                        .complaint())
                .startsWith("espalier: methods: peft: there is no recipe peft;");
        assertThat(Cli.run("compare", "nothing", "--out", folder + "/x").complaint())
                .startsWith(
                        "espalier: there is no study nothing; known here: minilm, smollm2-extraction, or name a YAML file");
    }

    private static void delete(Path tree) throws IOException {
        try (Stream<Path> walk = Files.walk(tree)) {
            for (Path path : walk.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }
}
