package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Part;
import dev.espalier.data.Encoding;
import dev.espalier.federated.DirichletSplit;
import dev.espalier.federated.FederatedRule;
import dev.espalier.federated.Federation;
import dev.espalier.federated.RenyiAccountant;
import dev.espalier.io.Fields;
import dev.espalier.model.LoadOptions;
import dev.espalier.tensor.Machine;
import dev.espalier.train.MetricsLog;
import dev.espalier.train.Optimizer;
import dev.espalier.train.RunFolder;
import dev.espalier.train.Sgd;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * A recipe with a section {@code federate} being carried out: its data dealt out to clients, rounds of a {@link Federation}, the
 * adapter saved.
 *
 * <pre>{@code
 * federate:
 *   type: fedsvd
 *   clients: 6
 *   rounds: 20
 *   epsilon: 6
 * }</pre>
 *
 * <p>Of {@code train} it takes seed, precision, device and the clients' optimiser, plain descent unless one is named.
 */
public final class FederatedRun implements AutoCloseable {

    /** The command, and the section of a recipe. */
    public static final String VERB = "federate";

    private static final Set<String> TAKEN = Set.of("seed", "precision", "device", "optimizer", "weightDecay");

    private final Run run;
    private final Federation.Config config;
    private final Federation federation;
    private final List<List<Encoding>> clients;
    private final String rule;
    private volatile boolean stop;

    /**
     * What came out.
     *
     * @param rounds that were carried out
     * @param finished false if it was told to stop before the last
     * @param metrics of the test split, else of the held-out examples, after the last round; empty where there are neither
     * @param epsilon spent by the client that spent most
     */
    public record Result(int rounds, boolean finished, Map<String, Double> metrics, double epsilon) {}

    /** Who follows the rounds. */
    @FunctionalInterface
    public interface Listener {
        /** A round has ended, with these metrics on what is held out. */
        void round(Federation.Round round, Map<String, Double> metrics);
    }

    private FederatedRun(
            Run run,
            Federation.Config config,
            Part.Chosen<?, FederatedRule.Server> rule,
            List<List<Encoding>> clients) {
        this.run = run;
        this.config = config;
        this.clients = clients;
        this.rule = rule.method().name();
        this.federation = new Federation(
                config,
                rule.create(run.setting()),
                run.adapted().adapter("default"),
                run.task(),
                clients,
                PadId.of(run.pretrained()),
                optimizer(run),
                run.setting().seed());
    }

    /**
     * Reads data, loads the model, attaches the adapter and deals the data out; nothing is written.
     *
     * @throws dev.espalier.EspalierException if anything of the recipe, the data or the model does not fit
     */
    public static FederatedRun prepare(Recipe recipe, LoadOptions options) {
        Fields f = recipe.section(VERB);
        Part.Chosen<?, FederatedRule.Server> rule =
                TrainPart.chosen(Catalog.method(f.string("type"), FederatedRule.class, VERB + ".type", "fedsvd"), f);
        Federation.Config config = Federation.Config.read(f);
        f.done();
        checkTrain(recipe);
        check(
                !recipe.task().pack(),
                "task.pack puts several examples into a row, where they cannot be told apart; remove it");
        Run run = Run.prepare(recipe, options, VERB);
        try {
            List<List<Encoding>> clients = DirichletSplit.of(
                    run.encodings().items(),
                    e -> e.label() instanceof Integer label ? label : -1, // without classes all count alike
                    config.clients(),
                    config.concentration(),
                    run.setting().seed().named("clients"));
            return new FederatedRun(run, config, rule, clients);
        } catch (RuntimeException e) {
            run.close();
            throw e;
        }
    }

    private static void checkTrain(Recipe recipe) {
        if (recipe.settings().get("train") instanceof Map<?, ?> train) {
            train.keySet()
                    .forEach(key -> check(
                            TAKEN.contains(String.valueOf(key)),
                            "train.%s has no meaning for a federation, whose rounds, steps and rates stand under %s; remove it",
                            key,
                            VERB));
        }
    }

    private static Optimizer.Config optimizer(Run run) {
        boolean named =
                run.recipe().settings().get("train") instanceof Map<?, ?> train && train.containsKey("optimizer");
        return named ? run.recipe().train().optimizer().create(run.setting()) : Sgd.Config.DEFAULT;
    }

    /** The model, data and adapter. */
    public Run run() {
        return run;
    }

    /** The loop's settings. */
    public Federation.Config config() {
        return config;
    }

    /** Examples of each client. */
    public List<Integer> sizes() {
        return clients.stream().map(List::size).toList();
    }

    /** Noise of each client in units of the clip norm; zeros without noise. */
    public List<Double> sigmas() {
        return federation.sigmas();
    }

    /** Numbers that a client sends up in a round. */
    public long uploaded() {
        return federation.uploaded();
    }

    /** Asks for an end after the round that is running, with the adapter saved as it then is; from any thread. */
    public void requestStop() {
        stop = true;
    }

    /**
     * Carries out the rounds and saves the adapter with its receipt, {@code metrics.jsonl} and {@code run.json} into the recipe's
     * {@code out}.
     */
    public Result federate(Listener listener) {
        Path out = run.recipe().requireOut();
        Run.checkFree(out, false);
        RunFolder folder = RunFolder.open(out, false);
        Instant started = Instant.now();
        Result result = new Result(0, false, Map.of(), 0);
        folder.write(record("running", null, started, result));
        try (MetricsLog metrics = new MetricsLog(folder.metrics(), 0)) {
            while (result.rounds() < config.rounds() && !stop) {
                Federation.Round round = federation.next();
                Map<String, Double> judged = run.evaluate();
                result = new Result(round.number(), round.number() == config.rounds(), judged, round.epsilon());
                metrics.append(line(round, judged));
                listener.round(round, judged);
            }
            metrics.force();
            run.save(out);
        } catch (RuntimeException e) {
            folder.write(record("failed", e.getMessage(), started, result));
            throw e;
        }
        folder.write(record(result.finished() ? "completed" : "interrupted", null, started, result));
        return result;
    }

    private static Map<String, Object> line(Federation.Round round, Map<String, Double> judged) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("round", round.number());
        line.put("clients", round.clients());
        if (!Double.isNaN(round.loss())) {
            line.put("loss", round.loss());
        }
        judged.forEach((name, value) -> line.put("eval_" + name, value));
        if (Double.isFinite(round.epsilon())) {
            line.put("epsilon", round.epsilon());
        }
        return line;
    }

    private Map<String, Object> record(String status, @Nullable String message, Instant started, Result result) {
        Map<String, Object> record = new LinkedHashMap<>();
        record.put("status", status);
        if (message != null) {
            record.put("message", message);
        }
        record.put("recipe", run.recipe().settings());
        record.put("method", rule);
        record.put("seed", run.setting().seed().value());
        record.put("rounds", result.rounds());
        record.put("total_rounds", config.rounds());
        record.put("started", started.toString());
        record.put("seconds", Duration.between(started, Instant.now()).toMillis() / 1000.0);
        record.put("versions", RunFolder.versions());
        record.put("hashes", run.hashes());
        record.put("client_examples", sizes());
        record.put("uploaded_parameters", uploaded());
        record.put("peak_resident_bytes", Machine.peakResidentBytes());
        record.put("metrics", result.metrics());
        if (config.isPrivate() && Double.isFinite(config.epsilon())) {
            record.put("noise_multipliers", sigmas());
            record.put("epsilon", result.epsilon());
            record.put("delta", config.delta());
            record.put("accountant", RenyiAccountant.NAME);
        }
        return record;
    }

    @Override
    public void close() {
        run.close();
    }
}
