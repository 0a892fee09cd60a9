package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.Tokenizer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** What a model is made of, wherever it came from. */
record Parts(
        Origin origin,
        String configWhere,
        Map<String, Object> configJson,
        TensorSource source,
        @Nullable Supplier<Tokenizer> tokenizer,
        Supplier<Optional<ChatTemplate>> chatTemplate,
        GenerationConfig generation,
        Map<String, Content> companions) {

    private static final Logger LOG = LoggerFactory.getLogger(Models.class);

    /** Builds the network, fills it, and puts the rest beside it. */
    Pretrained assemble(Purpose purpose, LoadOptions options) {
        ModelConfig config = Family.config(configWhere, configJson);
        checkSize(config);
        DType dtype = options.precision().resolve(options.device(), source);
        List<String> own = ClassNames.read(configWhere, configJson);
        List<String> classes = classes(purpose, own);
        Backbone backbone = Family.backbone(config, dtype, !classes.isEmpty() && config.family() == Family.BERT);
        Model model = null;
        try {
            model = purpose instanceof Purpose.CausalLanguageModel
                    ? new CausalLm(backbone)
                    : purpose instanceof Purpose.Embedding
                            ? new SentenceEmbedder(backbone)
                            : new SequenceClassifier(backbone, classes);
            Set<String> drawn =
                    Weights.load(model, source, dtype, options.device(), !classes.equals(own), options.seed());
            if (!drawn.isEmpty()) {
                LOG.info("{}: {} drawn anew, to be trained", origin.name(), String.join(", ", drawn));
            }
            Tokenizer opened = tokenizer == null ? null : tokenizer.get();
            return new Pretrained(model, opened, chatTemplate, stopping(opened), origin, configJson, drawn, companions);
        } catch (RuntimeException e) {
            (model == null ? backbone : model).close();
            throw e;
        }
    }

    /** Names of the head's outputs; none for a purpose that does not classify. */
    private List<String> classes(Purpose purpose, List<String> own) {
        if (purpose instanceof Purpose.Regression) {
            return ClassNames.REGRESSION;
        } else if (purpose instanceof Purpose.Classification classification) {
            List<String> classes = classification.labels().isEmpty() ? own : classification.labels();
            check(
                    !classes.isEmpty(),
                    "%s names no classes (id2label), so it was not trained to classify; say which classes there are",
                    configWhere);
            return classes;
        }
        return List.of();
    }

    /** Generation stops at the tokenizer's own end token too: chat models often name it there only. */
    private GenerationConfig stopping(@Nullable Tokenizer opened) {
        Integer end = opened == null ? null : opened.id(opened.special().eos());
        if (end == null || generation.stopIds().contains(end)) {
            return generation;
        }
        List<Integer> ids = new ArrayList<>(generation.stopIds());
        ids.add(end);
        return generation.withStopIds(ids);
    }

    /** Nothing is allocated for a model many times larger than its file; smaller differences are told tensor by tensor. */
    private void checkSize(ModelConfig config) {
        long held =
                source.tensors().values().stream().mapToLong(TensorInfo::numel).sum();
        check(
                config.leastParameters() / 4 <= Math.max(held, 1 << 24),
                "%s describes a model of at least %d parameters, and %s holds %d; they do not belong together",
                configWhere,
                config.leastParameters(),
                source.where(),
                held);
    }
}
