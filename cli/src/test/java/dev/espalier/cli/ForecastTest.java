package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.assertj.core.data.Percentage;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What {@code plan} says is what {@code train} then takes. Each runs in a process of its own: a peak never goes down. */
class ForecastTest {

    @TempDir
    private Path folder;

    @ParameterizedTest
    @ValueSource(strings = {"never", "always"})
    void forecastOfMiniLmIsWithin15PercentOfTheMeasuredPeak(String gradientCheckpointing) throws Exception {
        StringBuilder rows = new StringBuilder("text,label\n");
        for (int i = 0; i < 32; i++) {
            rows.append("order ".repeat(126).strip())
                    .append(i % 2 == 0 ? ",a\n" : ",b\n"); // 128 tokens with [CLS], [SEP]
        }
        Path data = Cli.write(folder.resolve("data.csv"), rows.toString());
        List<String> settings = List.of(
                "lora",
                "--set",
                "model=minilm",
                "--set",
                "task={type: classification, data: " + data + ", heldOut: 0}",
                "--set",
                "train={steps: 2, batch: 16, gradientCheckpointing: " + gradientCheckpointing + "}",
                "--json");
        long forecast = (long) run("plan", settings).get("memory_total");
        List<String> training = new ArrayList<>(settings);
        training.addAll(List.of("--out", folder.resolve("out").toString()));
        long peak = (long) run("train", training).get("peak_resident_bytes");
        assertThat(forecast).isCloseTo(peak, Percentage.withPercentage(15));
    }

    private Map<String, Object> run(String command, List<String> arguments) throws IOException, InterruptedException {
        List<String> line = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:+UseSerialGC", // as the launcher
                "-cp",
                System.getProperty("surefire.test.class.path", System.getProperty("java.class.path")),
                "dev.espalier.cli.Main",
                command));
        line.addAll(arguments);
        Path out = folder.resolve(command + ".json");
        Process process = new ProcessBuilder(line)
                .redirectOutput(out.toFile())
                .redirectError(ProcessBuilder.Redirect.DISCARD)
                .start();
        assertThat(process.waitFor()).isZero();
        return Json.parse(command, Files.readString(out, StandardCharsets.UTF_8));
    }
}
