package dev.espalier.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.model.LoadOptions;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Three blocks of a real language model at two to three bits: what compression does to it and how much of that comes back. */
class CompressionTest {

    @TempDir
    private Path folder;

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "eora    | compress.r=32 compress.sequences=6 compress.of.bits=2 compress.of.group_size=32 compress.of.layers_to_transform=[0,1,2]",
                "lq-lora | compress.r=32 compress.budget=2.5 compress.bits=[2,3] compress.block_sizes=32 compress.iterations=3 compress.layers_to_transform=[0,1,2]"
            })
    void theAdapterTakesBackMostOfTheDamage(String method, String settings) throws URISyntaxException {
        String models = System.getenv("ESPALIER_MODELS");
        Path model = (models != null ? Path.of(models) : Path.of("../../shared/models"))
                .resolve("SmolLM2-135M-Instruct.Q4_1.gguf");
        assumeTrue(
                Files.exists(model), "skipped: no SmolLM2-135M-Instruct.Q4_1.gguf; set ESPALIER_MODELS to its folder");
        Path samples = Path.of(
                Objects.requireNonNull(getClass().getResource("/samples")).toURI());
        List<String> all = new java.util.ArrayList<>(List.of(settings.split(" ")));
        all.add("model=" + model);
        all.add("task={type: causal-lm, data: %s, heldOut: %s, supervise: everything}"
                .formatted(samples.resolve("chat-train.jsonl"), samples.resolve("chat-test.jsonl")));
        Compression done =
                Compression.of(Recipe.read(method, all).withOut(folder.resolve("out")), LoadOptions.defaults());
        double before = done.before().get("loss");
        double compressed = done.compressed().get("loss");
        double compensated = done.compensated().get("loss");
        assertThat(compensated - before).isLessThan(0.5 * (compressed - before));
        assertThat(done.report().after()).isLessThan(done.report().before());
    }
}
