package dev.espalier.compare;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class StudyResultTest {

    @TempDir
    private Path folder;

    static Path sample() {
        try {
            return Path.of(Objects.requireNonNull(StudyResultTest.class.getResource("/compare/sample-results.json"))
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    @Test
    void theSampleIsWhatItsGeneratorMakes() throws Exception {
        Path made = folder.resolve("results.json");
        SampleResults.make().write(made);
        assertThat(Files.readString(made)).isEqualTo(Files.readString(sample()));
    }

    @Test
    void resultsReadBackAreTheSame() {
        assertThat(StudyResult.read(sample())).isEqualTo(SampleResults.make());
    }

    @Test
    void aRowIsFoundByItsName() {
        StudyResult result = StudyResult.read(sample());
        assertThat(result.reference().summary().difference()).isNull();
        assertThat(result.method("galore").summary().runs()).isEqualTo(2);
        assertThatThrownBy(() -> result.method("lara"))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("has no row lara; it has lora, dora, adalora");
    }

    @Test
    void aFileOfAnotherShapeIsRefusedWithASentence() {
        Map<String, Object> json = new LinkedHashMap<>(Json.read(sample()));
        json.put("surprise", 1L);
        Path file = folder.resolve("results.json");
        Json.write(file, json);
        assertThatThrownBy(() -> StudyResult.read(file))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("surprise")
                .hasMessageContaining("run the study again");
        Json.write(file, Map.of("name", "x"));
        assertThatThrownBy(() -> StudyResult.read(file))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("Missing creator property 'date' (index 1); run");
    }
}
