package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.data.Collator;
import dev.espalier.data.Encoder;
import dev.espalier.data.Encoding;
import dev.espalier.data.Example;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.task.Inputs;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;

/** Runs a classifier or a regression over texts. */
final class Predictor {

    private static final int BATCH = 32;

    private final LoadedModel loaded;
    private final SequenceClassifier model;

    Predictor(LoadedModel loaded) {
        this.loaded = loaded;
        check(
                loaded.pretrained().model() instanceof SequenceClassifier,
                "%s is a %s and has no classes to predict; for text use generate, or name an adapter trained to classify",
                loaded.pretrained().origin().name(),
                loaded.pretrained().model().architecture());
        this.model = loaded.pretrained().classifier();
    }

    List<Prediction> predict(List<String> texts) {
        List<Prediction> predictions = new ArrayList<>();
        for (float[] row : logits(texts)) {
            predictions.add(prediction(texts.get(predictions.size()), row));
        }
        return predictions;
    }

    /** A row of logits for each text. */
    List<float[]> logits(List<String> texts) {
        Encoder encoder = loaded.encoder();
        List<Encoding> encodings = new ArrayList<>();
        for (int i = 0; i < texts.size(); i++) {
            encodings.add(encoder.encode(new Example.Scored(texts.get(i), null, 0, "text " + (i + 1))));
        }
        return rows(encodings);
    }

    private List<float[]> rows(List<Encoding> encodings) {
        Collator collator = new Collator(
                encodings,
                new Collator.Options(BATCH, PadId.of(loaded.pretrained()), Collator.Side.RIGHT, false, 0),
                new Seed(0));
        List<float[]> rows = new ArrayList<>();
        model.train(false);
        try (Grad off = Grad.off()) {
            for (int b = 0; b < collator.batches(0); b++) {
                try (Scope scope = Scope.open()) {
                    Tensor outputs = model.forward(Inputs.of(collator.batch(new Collator.Cursor(0, b)), model))
                            .to(DType.FLOAT32); // [B, width]
                    float[] all = outputs.floats();
                    int width = (int) outputs.size(1);
                    for (int at = 0; at < all.length; at += width) {
                        rows.add(java.util.Arrays.copyOfRange(all, at, at + width));
                    }
                }
            }
        }
        return rows;
    }

    private Prediction prediction(String text, float[] logits) {
        if (logits.length == 1) {
            return new Prediction(text, "", logits[0], Map.of());
        }
        double max = IntStream.range(0, logits.length)
                .mapToDouble(i -> logits[i])
                .max()
                .orElse(0);
        double total = IntStream.range(0, logits.length)
                .mapToDouble(i -> Math.exp(logits[i] - max))
                .sum();
        List<Integer> order = IntStream.range(0, logits.length)
                .boxed()
                .sorted(Comparator.comparingDouble(i -> -logits[i]))
                .toList();
        Map<String, Double> probabilities = new LinkedHashMap<>();
        order.forEach(i -> probabilities.put(model.labels().get(i), Math.exp(logits[i] - max) / total));
        Map.Entry<String, Double> best = probabilities.entrySet().iterator().next();
        return new Prediction(text, best.getKey(), best.getValue(), probabilities);
    }
}
