package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.nn.Dropout;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.List;

/** From hidden states to one row of logits a sequence; keys stand at the top of the checkpoint. */
abstract sealed class ClassificationHead extends Module {

    /**
     * What the last layer receives, a row a sequence.
     *
     * @param hidden [B, n + T, D], the n places of a prompt in front: Hugging Face's heads that read the first place read it there
     * @return [B, D]
     */
    abstract Tensor features(Tensor hidden, Input in);

    /** The last layer, from features to outputs. */
    abstract Linear output();

    /** All layers. */
    abstract List<Linear> linears();

    /** The decoders': a linear map of the last real token. */
    static final class LastToken extends ClassificationHead {
        private final Linear score; // [outputs, D]

        LastToken(int width, int outputs, DType dtype) {
            score = child("score", new Linear(width, outputs, false, dtype));
        }

        @Override
        Tensor features(Tensor hidden, Input in) {
            Tensor own = hidden.narrow(1, hidden.size(1) - in.tokens(), in.tokens());
            return own.flatten(0, 1).indexSelect(0, lastTokens(in));
        }

        @Override
        Linear output() {
            return score;
        }

        /** Where each row's last real token stands among all B·T. */
        private static Tensor lastTokens(Input in) {
            int tokens = (int) in.tokens();
            long[] last = new long[(int) in.batch()];
            long[] real = in.attentionMask() == null
                    ? new long[0]
                    : in.attentionMask().longs();
            for (int row = 0; row < last.length; row++) {
                int t = tokens - 1;
                while (t > 0 && real.length > 0 && real[row * tokens + t] == 0) {
                    t--;
                }
                last[row] = (long) row * tokens + t;
            }
            return Tensor.of(last, last.length).to(in.inputIds().device());
        }

        @Override
        List<Linear> linears() {
            return List.of(score);
        }
    }

    /** BERT's: a linear map of the pooled first token. */
    static final class Pooled extends ClassificationHead {
        private final Bert bert;
        private final Dropout dropout;
        private final Linear classifier; // [outputs, D]

        Pooled(Bert bert, int width, int outputs, double dropout, DType dtype) {
            this.bert = bert;
            this.dropout = child("dropout", new Dropout(dropout));
            classifier = child("classifier", new Linear(width, outputs, true, dtype));
        }

        @Override
        Tensor features(Tensor hidden, Input in) {
            return dropout.forward(bert.pool(hidden));
        }

        @Override
        Linear output() {
            return classifier;
        }

        @Override
        List<Linear> linears() {
            return List.of(classifier);
        }
    }

    /** RoBERTa's: a hidden layer of its own on the first token. */
    static final class FirstToken extends ClassificationHead {
        private final Dropout dropout;
        private final Linear dense; // [D, D]
        private final Linear outProj; // [outputs, D]

        FirstToken(int width, int outputs, double dropout, DType dtype) {
            dense = child("classifier.dense", new Linear(width, width, true, dtype));
            this.dropout = child("classifier.dropout", new Dropout(dropout));
            outProj = child("classifier.out_proj", new Linear(width, outputs, true, dtype));
        }

        @Override
        Tensor features(Tensor hidden, Input in) {
            Tensor first = dropout.forward(hidden.select(1, 0)); // [B, D]
            return dropout.forward(dense.forward(first).tanh());
        }

        @Override
        Linear output() {
            return outProj;
        }

        @Override
        List<Linear> linears() {
            return List.of(dense, outProj);
        }
    }

    /** Packing puts several sequences into a row, and a classifier answers once a row. */
    static void refusePacking(Input in) {
        check(in.segmentIds() == null, "a classifier answers once a row: give it padded rows, not packed ones");
    }
}
