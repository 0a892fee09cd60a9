package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class JsonTest {

    @TempDir
    Path folder;

    @Test
    void writesAsHuggingFaceDoesAndReadsItBack() throws IOException {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("r", 8L);
        map.put("lora_alpha", 16.5);
        map.put("target_modules", List.of("q_proj", "v_proj"));
        map.put("rank_pattern", Map.of());
        map.put("revision", null);
        map.put("name", "Grüße \"\n");
        Path file = folder.resolve("adapter_config.json");
        Json.write(file, map);
        // json.dumps(map, indent=2, ensure_ascii=False)
        assertThat(Files.readString(file)).isEqualTo("""
                {
                  "r": 8,
                  "lora_alpha": 16.5,
                  "target_modules": [
                    "q_proj",
                    "v_proj"
                  ],
                  "rank_pattern": {},
                  "revision": null,
                  "name": "Grüße \\"\\n"
                }
                """);
        assertThat(Json.read(file)).isEqualTo(map);
        assertThat(Json.text(Map.of("a", List.of(1, 2)))).isEqualTo("{\"a\":[1,2]}");
    }

    @Test
    void readsWhatPythonWrites() {
        Map<String, Object> map =
                Json.parse("x", "{\"a\": NaN, \"b\": Infinity, \"c\": 1000000000000000019884624838656}");
        assertThat(map)
                .containsEntry("a", Double.NaN)
                .containsEntry("b", Double.POSITIVE_INFINITY)
                .containsEntry("c", new BigInteger("1000000000000000019884624838656"));
    }

    @Test
    void faultsNameFileLineAndColumn() throws IOException {
        Path file = folder.resolve("config.json");
        Files.writeString(file, "{\n  \"a\": 1,\n  \"b\": ]\n}");
        assertThatThrownBy(() -> Json.read(file))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith(file + " line 3, column 8 is not valid JSON: Unexpected character (']'")
                .hasMessageNotContaining("\n");
    }

    @Test
    void hostileTextIsRefusedWithASentence() {
        refused("", "No content");
        refused("{\"a\": 1} x", "not valid JSON");
        refused("{\"a\": 1, \"a\": 2}", "Duplicate Object property \"a\"");
        refused("{\"a\": " + "[".repeat(300) + "]".repeat(300) + "}", "nesting depth");
        refused("{\"a\": " + "9".repeat(5000) + "}", "Number value length");
        refused("[1]", "input should hold one JSON object, {...}, but holds a list");
        refused("null", "but holds null");
    }

    @Test
    void bytesThatAreNotUtf8AreRefused() {
        byte[] latin = "{\"a\": \"Grüße\"}".getBytes(StandardCharsets.ISO_8859_1);
        assertThatThrownBy(() -> Json.parse("input", latin))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageContaining("Invalid UTF-8");
    }

    @Test
    void missingFileIsNamed() {
        Path file = folder.resolve("none.json");
        assertThatThrownBy(() -> Json.read(file))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage(file + " does not exist; check the path");
    }

    private static void refused(String json, String sentence) {
        assertThatThrownBy(() -> Json.parse("input", json))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith("input")
                .hasMessageContaining(sentence);
    }
}
