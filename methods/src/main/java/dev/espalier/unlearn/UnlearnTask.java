package dev.espalier.unlearn;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.model.CausalLm;
import dev.espalier.nn.Module;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.Evaluator;
import dev.espalier.task.Inputs;
import dev.espalier.task.Task;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.List;

/**
 * Forgetting as a task for the trainer: its batches are of what is to be forgotten, and to each row comes one that is to be
 * retained, drawn anew each time.
 *
 * <p>A batch counts as one unit, whatever its tokens: losses of a step are means of batches' means, as in the authors' code. It
 * judges by what is to be retained, as an ordinary language model. It must be among the trainer's callbacks too, which tell it the
 * step: what is drawn depends on seed and step alone, so that a resumed run goes on to the same bits.
 */
public final class UnlearnTask implements Task, Callback {

    private final CausalLm lm;
    private final CausalLmTask task;
    private final AdaptedModel model;
    private final Unlearning.Objective objective;
    private final List<Encoding> retained;
    private final int padId;
    private final Seed seed;
    private long step;
    private long microStep;

    /**
     * @param lm that forgets
     * @param model the same with its adapter
     * @param retained what the rest is drawn from, at least one
     * @param padId token that fills rows up
     */
    public UnlearnTask(
            CausalLm lm,
            AdaptedModel model,
            Unlearning.Objective objective,
            List<Encoding> retained,
            int padId,
            Seed seed) {
        check(!retained.isEmpty(), "there is nothing to retain; name data for it");
        this.lm = lm;
        this.task = new CausalLmTask(lm, 0);
        this.model = model;
        this.objective = objective;
        this.retained = List.copyOf(retained);
        this.padId = padId;
        this.seed = seed.named("retain");
    }

    @Override
    public Module model() {
        return task.model();
    }

    @Override
    public void beforeStep(TrainingRun run, long next) {
        step = next;
        microStep = 0;
    }

    @Override
    public double units(Batch batch) {
        return batch.targets() > 0 ? 1 : 0;
    }

    @Override
    public Outcome forward(Batch batch) {
        Outcome outcome = task.forward(batch);
        Seed here = seed.at(step).at(microStep++);
        return new Outcome() {
            @Override
            public Tensor loss() {
                Tensor loss = objective.forget(new Seen(batch, outcome));
                Retain retain = objective.retain();
                return retain.kind() == Retain.Kind.NONE || retain.weight() == 0
                        ? loss
                        : loss.add(retained(retain.kind(), draw(batch, here)).mul(retain.weight()));
            }

            @Override
            public Tensor logits() {
                return outcome.logits();
            }

            @Override
            public Tensor targets() {
                return outcome.targets();
            }
        };
    }

    /** As many rows to be retained as the batch has to be forgotten. */
    private Batch draw(Batch batch, Seed here) {
        List<Encoding> rows = new ArrayList<>();
        for (int i = 0; i < batch.inputIds().size(0); i++) {
            long random = here.at(i).value() >>> 32;
            rows.add(retained.get((int) ((random * retained.size()) >>> 32)));
        }
        return Collator.batch(rows, padId);
    }

    private Tensor retained(Retain.Kind kind, Batch batch) {
        if (kind == Retain.Kind.CE) {
            return task.loss(batch).div(Math.max(1, task.units(batch)));
        }
        Tensor original = model.unadapted(() -> {
            try (Grad off = Grad.off()) {
                return logProbabilities(batch);
            }
        });
        return original.exp()
                .mul(original.sub(logProbabilities(batch)))
                .sum(-1, false)
                .mean(); // over [B, T]
    }

    /** Of the whole vocabulary at every position [B, T, V]. */
    private Tensor logProbabilities(Batch batch) {
        return wide(lm.forward(Inputs.of(batch, lm))).logSoftmax(-1);
    }

    private static Tensor wide(Tensor logits) {
        return logits.dtype().bytes() < 4 ? logits.to(dev.espalier.tensor.DType.FLOAT32) : logits;
    }

    private static Tensor ofTargets(Outcome outcome) {
        return outcome.logits()
                .logSoftmax(-1)
                .gather(-1, outcome.targets().unsqueeze(-1))
                .squeeze(-1);
    }

    private final class Seen implements Unlearning.Forgetting {
        private final Batch batch;
        private final Outcome outcome;

        Seen(Batch batch, Outcome outcome) {
            this.batch = batch;
            this.outcome = outcome;
        }

        @Override
        public Batch batch() {
            return batch;
        }

        @Override
        public Outcome outcome() {
            return outcome;
        }

        @Override
        public Tensor logProbabilities() {
            return ofTargets(outcome);
        }

        @Override
        public Tensor originalLogProbabilities() {
            return model.unadapted(() -> {
                try (Grad off = Grad.off()) {
                    return ofTargets(task.forward(batch));
                }
            });
        }
    }

    @Override
    public Evaluator evaluator() {
        return task.evaluator();
    }

    @Override
    public Metric metric() {
        return task.metric();
    }
}
