package dev.espalier.model;

import dev.espalier.EspalierException;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** The families of checkpoints that can be loaded: how Hugging Face calls their classes and prefixes their keys. */
public enum Family {
    LLAMA("Llama", "model"),
    MISTRAL("Mistral", "model"),
    QWEN2("Qwen2", "model"),
    QWEN3("Qwen3", "model"),
    GPT2("GPT2", "transformer"),
    BERT("Bert", "bert"),
    ROBERTA("Roberta", "roberta");

    private final String classPrefix;
    private final String keyPrefix;

    Family(String classPrefix, String keyPrefix) {
        this.classPrefix = classPrefix;
        this.keyPrefix = keyPrefix;
    }

    /** {@code model_type} in config.json. */
    public String modelType() {
        return name().toLowerCase(Locale.ROOT);
    }

    /** What stands before the backbone's keys in a checkpoint that has a head, without the dot. */
    public String keyPrefix() {
        return keyPrefix;
    }

    /** Whether it reads from left to right and can generate. */
    public boolean isDecoder() {
        return this != BERT && this != ROBERTA;
    }

    /** The class without a head. */
    public String baseClass() {
        return classPrefix + "Model";
    }

    /** The class that predicts next tokens. */
    public String causalLmClass() {
        return this == GPT2 ? "GPT2LMHeadModel" : classPrefix + "ForCausalLM";
    }

    /** The class that classifies sequences. */
    public String classifierClass() {
        return classPrefix + "ForSequenceClassification";
    }

    /**
     * Reads a configuration.
     *
     * @param where the file, for messages
     * @throws EspalierException if the family or a setting is not supported
     */
    public static ModelConfig config(String where, Map<String, Object> json) {
        Fields fields = Fields.of(where, json);
        String type = fields.string("model_type");
        Family family = Arrays.stream(values())
                .filter(f -> f.modelType().equals(type))
                .findFirst()
                .orElseThrow(() -> new EspalierException("%s: models of type '%s' are not supported; supported are %s"
                        .formatted(
                                where,
                                type,
                                Arrays.stream(values()).map(Family::modelType).collect(Collectors.joining(", ")))));
        return switch (family) {
            case LLAMA, MISTRAL, QWEN2, QWEN3 -> Llama.Config.read(where, family, fields);
            case GPT2 -> Gpt2.Config.read(where, fields);
            case BERT, ROBERTA -> Bert.Config.read(where, family, fields);
        };
    }

    /** A network of a configuration, with values as memory is found. */
    static Backbone backbone(ModelConfig config, DType dtype, boolean pooler) {
        if (config instanceof Llama.Config llama) {
            return new Llama(llama, dtype);
        } else if (config instanceof Gpt2.Config gpt2) {
            return new Gpt2(gpt2, dtype);
        }
        return new Bert((Bert.Config) config, dtype, pooler);
    }
}
