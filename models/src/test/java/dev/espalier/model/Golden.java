package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.Arguments;

/** Models and numbers that transformers made: tools/golden/make_model_fixtures.py. */
final class Golden {

    private Golden() {}

    static Path root() {
        try {
            return Path.of(Objects.requireNonNull(Golden.class.getResource("/golden/models"))
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    static Map<String, Object> cases() {
        return Json.read(root().resolve("cases.json"));
    }

    /** A small network of each family, and whether it is an encoder. */
    static Stream<Arguments> families() {
        return Stream.concat(
                Stream.of("llama", "mistral", "qwen2", "qwen3", "gpt2").map(name -> Arguments.of(name, false)),
                Stream.of("bert-embedding", "roberta-embedding").map(name -> Arguments.of(name, true)));
    }

    private static String of(String name, String field) {
        return (String) ((Map<?, ?>) cases().get(name)).get(field);
    }

    static String architecture(String name) {
        return of(name, "architecture");
    }

    /** The case's folder, or a copy below {@code temporary} with the weights that it borrows. */
    static Path folder(String name, Path temporary) {
        String weights = of(name, "weights");
        Path own = root().resolve(name);
        return weights.equals(name) ? own : copy(own, root().resolve(weights), temporary.resolve(name));
    }

    /** A folder with the configuration of one and the weights of another. */
    static Path copy(Path config, Path weights, Path target) {
        try {
            Files.createDirectories(target);
            try (Stream<Path> files = Files.list(weights)) {
                for (Path file : files.filter(f -> f.getFileName().toString().startsWith("model"))
                        .toList()) {
                    Files.copy(file, target.resolve(file.getFileName().toString()));
                }
            }
            Files.copy(config.resolve("config.json"), target.resolve("config.json"));
            return target;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** What transformers gave; closed by the caller. */
    static TensorSource expected(String name) {
        return Safetensors.open(root().resolve(of(name, "expected")).resolve("expected.safetensors"));
    }

    static void assertClose(Tensor actual, Tensor expected, double tolerance) {
        assertThat(actual.shape()).isEqualTo(expected.shape());
        assertThat(actual.sub(expected).abs().max().item()).isLessThanOrEqualTo(tolerance);
    }
}
