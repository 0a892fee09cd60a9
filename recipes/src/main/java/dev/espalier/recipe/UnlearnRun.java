package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Part;
import dev.espalier.data.Encodings;
import dev.espalier.io.Fields;
import dev.espalier.model.LoadOptions;
import dev.espalier.train.ProgressListener;
import dev.espalier.train.TrainResult;
import dev.espalier.unlearn.UnlearnTask;
import dev.espalier.unlearn.Unlearning;
import java.util.Map;
import java.util.Objects;

/**
 * A recipe with a section {@code unlearn} being carried out: a language model measured, made to forget, measured again, and its
 * adapter saved.
 *
 * <pre>{@code
 * task:
 *   type: causal-lm
 *   forget: secret.jsonl
 *   retain: other.jsonl
 * unlearn:
 *   type: loku
 * }</pre>
 *
 * <p>It trains as an ordinary run does, by the recipe's {@code train}; what is held out is of the data to be retained.
 */
public final class UnlearnRun implements AutoCloseable {

    /** The command, and the section of a recipe. */
    public static final String VERB = "unlearn";

    private final Run run;
    private final Part.Chosen<?, Unlearning.Objective> method;

    /**
     * How the model does on both data sets: {@code loss} a target token, {@code perplexity}, {@code token_accuracy}.
     *
     * @param forget metrics of what is to be forgotten
     * @param retain metrics of what is to be retained
     */
    public record State(Map<String, Double> forget, Map<String, Double> retain) {}

    /**
     * What came out.
     *
     * @param training how it ended
     * @param before of the model as it was
     * @param after of the model as it is; equal to before where training was interrupted
     */
    public record Result(TrainResult training, State before, State after) {}

    private UnlearnRun(Run run, Part.Chosen<?, Unlearning.Objective> method) {
        this.run = run;
        this.method = method;
    }

    /**
     * Reads data, loads the model and attaches the adapter; nothing is written.
     *
     * @throws dev.espalier.EspalierException if anything of the recipe, the data or the model does not fit
     */
    public static UnlearnRun prepare(Recipe recipe, LoadOptions options) {
        Fields f = recipe.section(VERB);
        Part.Chosen<?, Unlearning.Objective> method =
                TrainPart.chosen(Catalog.method(f.string("type"), Unlearning.class, VERB + ".type", "loku"), f);
        f.done();
        check(
                recipe.task().type() == TaskSpec.Type.CAUSAL_LM,
                "task.type is %s, and only language models unlearn here; set it to causal-lm",
                recipe.task().type().key());
        check(
                recipe.task().forget() != null,
                "the recipe does not say what to forget; set task.forget to a file, and task.retain to one of what is to stay");
        return new UnlearnRun(Run.prepare(recipe, options, VERB), method);
    }

    /** The model, data and adapter. */
    public Run run() {
        return run;
    }

    /** What is to be forgotten, as the model reads it. */
    public Encodings forget() {
        return Objects.requireNonNull(run.forget());
    }

    /** How the model does as it stands. */
    public State state() {
        return new State(run.measure(forget()), run.measure(run.encodings()));
    }

    /**
     * Trains, measures, and saves the adapter with its receipt into the recipe's {@code out}.
     *
     * @param before what {@link #state} said
     * @param resume whether to go on from the newest checkpoint in {@code out}
     */
    public Result unlearn(State before, boolean resume, ProgressListener progress) {
        Run.Result result = run.train(
                resume,
                progress,
                setting -> new UnlearnTask(
                        run.pretrained().causalLm(),
                        run.adapted(),
                        method.create(setting),
                        run.encodings().items(),
                        PadId.of(run.pretrained()),
                        setting.seed()));
        boolean interrupted = result.training().status() == TrainResult.Status.INTERRUPTED;
        return new Result(result.training(), before, interrupted ? before : state());
    }

    /** Asks a training to save a checkpoint and end; from any thread. */
    public void requestStop() {
        run.requestStop();
    }

    @Override
    public void close() {
        run.close();
    }
}
