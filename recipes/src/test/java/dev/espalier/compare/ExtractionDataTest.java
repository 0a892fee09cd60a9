package dev.espalier.compare;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.data.DataOptions;
import dev.espalier.data.Dataset;
import dev.espalier.data.Example;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ExtractionDataTest {

    @TempDir
    private Path folder;

    @Test
    void theStudysDataAreWhatTheirGeneratorMakes() throws Exception {
        for (Map.Entry<String, String> split : ExtractionData.make().entrySet()) {
            String name = "/studies/extraction/" + split.getKey() + ".jsonl";
            try (InputStream in = Study.class.getResourceAsStream(name)) {
                assertThat(in).as(name).isNotNull();
                assertThat(new String(in.readAllBytes(), StandardCharsets.UTF_8))
                        .isEqualTo(split.getValue());
            }
        }
    }

    @Test
    void noOrderStandsInTwoSplitsAndEachAnswerIsInItsOrder() throws Exception {
        Set<String> seen = new HashSet<>();
        for (Map.Entry<String, String> split : ExtractionData.make().entrySet()) {
            Path file = Files.writeString(folder.resolve(split.getKey() + ".jsonl"), split.getValue());
            Dataset data = Dataset.read(file, DataOptions.DEFAULT);
            assertThat(data.examples()).hasSize(ExtractionData.SIZES.get(split.getKey()));
            for (Example example : data.examples()) {
                Example.Chat chat = (Example.Chat) example;
                String order = chat.turns().get(0).content();
                String[] answer = chat.turns().get(1).content().split(" \\| ");
                assertThat(seen.add(order)).isTrue();
                assertThat(order).contains(answer[0], answer[2]);
                assertThat(Integer.parseInt(answer[1])).isBetween(1, 12);
            }
        }
    }
}
