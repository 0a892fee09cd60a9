package dev.espalier.recipe;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.model.Pretrained;
import dev.espalier.task.Inputs;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * What a frozen model can do without training: a text's embedding is the mean of its tokens' last hidden states, of length
 * 1; a class's centre is the mean of its texts' embeddings; a text goes to the class whose centre has the largest cosine with
 * it. What fine-tuning must beat.
 */
final class NearestCentroid {

    private static final int BATCH = 32;

    private final Tensor centres; // [classes, D], rows of length 1

    private NearestCentroid(Tensor centres) {
        this.centres = centres;
    }

    /** Centres from labelled training data, in the current scope or free. */
    static NearestCentroid of(Pretrained pretrained, List<Encoding> train, int classes) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor embeddings = embed(pretrained, train); // [n, D]
            Tensor members = Tensor.zeros(DType.FLOAT32, classes, train.size());
            Tensor ids = Tensor.of(labels(train), 1, train.size());
            members.scatter_(0, ids, Tensor.ones(DType.FLOAT32, 1, train.size()));
            return new NearestCentroid(scope.promote(unit(members.matmul(embeddings))));
        }
    }

    /** Share of labelled examples whose class is found; frees the centres. */
    double accuracy(Pretrained pretrained, List<Encoding> judged) {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            long[] found =
                    embed(pretrained, judged).matmul(centres.t()).argmax(-1).longs();
            long[] actual = labels(judged);
            int right = 0;
            for (int i = 0; i < found.length; i++) {
                right += found[i] == actual[i] ? 1 : 0;
            }
            return (double) right / found.length;
        } finally {
            centres.close();
        }
    }

    private static long[] labels(List<Encoding> encodings) {
        return encodings.stream()
                .mapToLong(e -> Objects.requireNonNull(e.label()).longValue())
                .toArray();
    }

    private static Tensor embed(Pretrained pretrained, List<Encoding> encodings) {
        Collator collator = new Collator(
                encodings,
                new Collator.Options(BATCH, PadId.of(pretrained), Collator.Side.RIGHT, false, 0),
                new Seed(0));
        List<Tensor> rows = new ArrayList<>();
        for (int b = 0; b < collator.batches(0); b++) {
            try (Scope scope = Scope.open()) {
                Batch batch = collator.batch(new Collator.Cursor(0, b));
                Tensor hidden = pretrained
                        .model()
                        .backbone()
                        .forward(Inputs.of(batch, pretrained.model()))
                        .to(DType.FLOAT32)
                        .to(Device.CPU); // [B, T, D]
                Tensor real = batch.attentionMask().to(DType.FLOAT32).unsqueeze(-1); // [B, T, 1]
                rows.add(scope.promote(unit(hidden.mul(real).sum(1, false))));
            }
        }
        return Tensor.cat(rows, 0);
    }

    private static Tensor unit(Tensor rows) {
        return rows.div(rows.norm(-1, true).clamp(1e-12, Float.MAX_VALUE));
    }
}
