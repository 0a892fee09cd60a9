package dev.espalier.recipe;

import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.model.Pretrained;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** A model's outputs on a few fixed texts, to see whether two models are the same function. */
final class Probe {

    private static final List<String> TEXTS = List.of(
            "The quick brown fox jumps over the lazy dog.",
            "Where is my order? It should have arrived on 12 March.",
            "What is the capital of France?",
            "def add(a, b):\n    return a + b",
            "Der Zug nach Köln fährt um 7:45 Uhr ab.");

    /** Ids in place of texts, for a model without tokenizer: any will do. */
    private static final int IDS = 16;

    /**
     * How two models differ.
     *
     * @param maxLogitDifference largest absolute difference of an output
     * @param topOneChanged rows (tokens, for a language model) whose likeliest output is another
     * @param rows compared
     */
    public record Difference(double maxLogitDifference, long topOneChanged, long rows) {}

    private final List<Row> outputs;

    /** @param width of a row of logits */
    @SuppressWarnings("ArrayRecordComponent") // private, never compared as a whole
    private record Row(float[] logits, int width) {}

    private Probe(List<Row> outputs) {
        this.outputs = outputs;
    }

    static Probe of(Pretrained pretrained) {
        Model model = pretrained.model();
        Device device = model.backbone().tokens().weightParameter().tensor().device();
        List<Row> rows = new ArrayList<>();
        model.train(false);
        try (Grad off = Grad.off()) {
            for (int[] ids : ids(pretrained)) {
                try (Scope scope = Scope.open()) {
                    long[] wide = Arrays.stream(ids).asLongStream().toArray();
                    Tensor out = model.forward(
                                    Input.of(Tensor.of(wide, 1, wide.length).to(device)))
                            .to(DType.FLOAT32);
                    rows.add(new Row(out.floats(), (int) out.size(-1)));
                }
            }
        }
        return new Probe(rows);
    }

    private static List<int[]> ids(Pretrained pretrained) {
        if (pretrained.hasTokenizer()) {
            return TEXTS.stream()
                    .map(t -> pretrained.tokenizer().encode(t, true))
                    .toList();
        }
        int vocabulary = pretrained.model().config().vocabSize();
        int[] ids = new int[IDS];
        Arrays.setAll(ids, i -> (int) ((i * 7919L + 1) % vocabulary));
        return List.of(ids);
    }

    Difference to(Probe other) {
        double max = 0;
        long changed = 0;
        long rows = 0;
        for (int p = 0; p < outputs.size(); p++) {
            float[] a = outputs.get(p).logits();
            float[] b = other.outputs.get(p).logits();
            int width = outputs.get(p).width();
            for (int i = 0; i < a.length; i++) {
                max = Math.max(max, Math.abs((double) a[i] - b[i]));
            }
            for (int at = 0; at < a.length; at += width, rows++) {
                changed += likeliest(a, at, width) == likeliest(b, at, width) ? 0 : 1;
            }
        }
        return new Difference(max, changed, rows);
    }

    private static int likeliest(float[] logits, int from, int width) {
        int best = from;
        for (int i = from + 1; i < from + width; i++) {
            best = logits[i] > logits[best] ? i : best;
        }
        return best - from;
    }
}
