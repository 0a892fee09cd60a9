package dev.espalier.federated;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Lora;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.task.Task;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Parameters;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.jspecify.annotations.Nullable;

/**
 * A federation in one process: rounds in which some clients train the adapter on their own data and the server aggregates.
 *
 * <pre>{@code
 * for each round: draw round(f K) of the K clients without replacement
 *     each: from the server's values, E local steps (at most one pass) by a fresh optimiser
 *     the server: rule.aggregate(uploads), rule.afterRound
 * }</pre>
 *
 * <p>With an ε a step is {@link DpSgd}'s, and each client's noise is the least with which E · T steps stay within ε, T being all
 * rounds: as if it were drawn every time. Otherwise a step is a mean gradient of bounded norm. Everything that the rule does not
 * train stays as it started: a classifier's new head is random, the same for all. The guarantee is for each record of a client; A,
 * B, who was drawn and how many records each has count as public, and so the losses told here are for whoever simulates.
 */
public final class Federation {

    /**
     * Settings of the loop.
     *
     * @param clients K, at least 1
     * @param fraction f of them drawn each round, in (0, 1]
     * @param rounds T, at least 1
     * @param localSteps E, at least 1
     * @param batch rows of a step as expected, at least 1
     * @param physicalBatch rows that run through the network at once, at least 1
     * @param learningRate of the clients, constant, above 0
     * @param clip C, above 0: the norm that a sample's gradient, or without privacy the mean gradient, is cut down to
     * @param epsilon privacy for each record over the whole run, above 0; infinite: clipped without noise; 0: no privacy
     * @param delta chance of more than that, in (0, 1)
     * @param concentration of the Dirichlet distribution by which labels are dealt out, above 0
     */
    public record Config(
            int clients,
            double fraction,
            int rounds,
            int localSteps,
            int batch,
            int physicalBatch,
            double learningRate,
            double clip,
            double epsilon,
            double delta,
            double concentration) {

        /** FedSVD's, which its authors' scripts give their rivals too. */
        public static final Config DEFAULT = new Config(6, 0.5, 100, 10, 128, 16, 0.5, 2, 6, 1e-5, 0.5);

        private static final double CLIP_WITHOUT_PRIVACY = 1;

        static final Map<String, String> MEANINGS = meanings();

        /** Checks ranges. */
        public Config {
            check(clients >= 1, "clients must be at least 1, found %d; try 6", clients);
            check(fraction > 0 && fraction <= 1, "fraction must lie in (0, 1], found %s; try 0.5", fraction);
            check(rounds >= 1, "rounds must be at least 1, found %d; try 20", rounds);
            check(localSteps >= 1, "localSteps must be at least 1, found %d; try 10", localSteps);
            check(batch >= 1, "batch must be at least 1, found %d; try 32", batch);
            check(physicalBatch >= 1, "physicalBatch must be at least 1, found %d; try 16", physicalBatch);
            check(
                    learningRate > 0 && Double.isFinite(learningRate),
                    "learningRate must be above 0 and finite, found %s; try 0.5",
                    learningRate);
            check(clip > 0 && Double.isFinite(clip), "clip must be above 0 and finite, found %s; try 2", clip);
            check(epsilon >= 0, "epsilon must be above 0, or 0 for no privacy, found %s; try 6", epsilon);
            check(delta > 0 && delta < 1, "delta must lie in (0, 1), found %s; try 1e-5", delta);
            if (epsilon > 0) {
                RenyiAccountant.checkReachable(epsilon, delta);
            }
            check(
                    concentration > 0 && Double.isFinite(concentration),
                    "concentration must be above 0 and finite, found %s; try 0.5",
                    concentration);
        }

        /** Reads the settings. */
        public static Config read(Fields f) {
            double epsilon = f.number("epsilon", DEFAULT.epsilon);
            return new Config(
                    f.integer("clients", DEFAULT.clients),
                    f.number("fraction", DEFAULT.fraction),
                    f.integer("rounds", DEFAULT.rounds),
                    f.integer("localSteps", DEFAULT.localSteps),
                    f.integer("batch", DEFAULT.batch),
                    f.integer("physicalBatch", DEFAULT.physicalBatch),
                    f.number("learningRate", DEFAULT.learningRate),
                    f.number("clip", epsilon == 0 ? CLIP_WITHOUT_PRIVACY : DEFAULT.clip),
                    epsilon,
                    f.number("delta", DEFAULT.delta),
                    f.number("concentration", DEFAULT.concentration));
        }

        private static Map<String, String> meanings() {
            Map<String, String> all = new LinkedHashMap<>();
            all.put(
                    "epsilon",
                    "privacy of each record over all rounds, above 0; 0 for none, .inf to clip without noise");
            all.put("clients", "how many the data are dealt out to, at least 1");
            all.put("fraction", "share of the clients drawn each round, in (0, 1]");
            all.put("rounds", "of drawing, local steps and aggregation, at least 1");
            all.put("localSteps", "steps of a drawn client, at least 1, at most one pass over its data");
            all.put("batch", "rows of a step, on average under privacy, at least 1");
            all.put("physicalBatch", "rows that run through the network at once, at least 1");
            all.put("learningRate", "of the clients, constant, above 0");
            all.put(
                    "clip",
                    "bound of the norm of a sample's gradient, without privacy of the mean gradient (then default 1), above 0");
            all.put("delta", "chance that a record loses more than epsilon, in (0, 1)");
            all.put("concentration", "of the Dirichlet split over labels, above 0; the smaller, the more uneven");
            return Collections.unmodifiableMap(all);
        }

        /** Whether samples' gradients are clipped, and noise is added unless ε is infinite. */
        public boolean isPrivate() {
            return epsilon > 0;
        }
    }

    /**
     * How a round went.
     *
     * @param number counted from 1
     * @param clients that were drawn, counted from 1, ascending
     * @param loss mean of the batches that they saw, a row or token each; NaN if all were empty
     * @param epsilon spent so far by the client that spent most; 0 without privacy, infinite without noise
     */
    public record Round(int number, List<Integer> clients, double loss, double epsilon) {}

    private static final class Client {
        final int index;
        final List<Encoding> data;
        final DpSgd sampling;
        final long steps; // of a round
        final double sigma; // 0 for no noise
        final RenyiAccountant accountant = new RenyiAccountant();

        Client(int index, List<Encoding> data, Config config) {
            this.index = index;
            this.data = data;
            sampling = new DpSgd(data.size(), config.batch);
            steps = Math.min(config.localSteps, sampling.batches());
            sigma = config.isPrivate() && Double.isFinite(config.epsilon)
                    ? RenyiAccountant.sigma(config.epsilon, config.delta, sampling.chance(), steps * config.rounds)
                    : 0;
        }
    }

    private final Config config;
    private final FederatedRule.Server server;
    private final Map<String, Parameter> trained;
    private final Task task;
    private final List<Client> clients = new ArrayList<>();
    private final int padId;
    private final Optimizer.Config optimizer;
    private final Seed seed;
    private final @Nullable PerSampleGradients gradients;
    private int rounds;

    /**
     * Sets up a federation, and freezes what its rule does not train.
     *
     * @param server the rule at work on the adapter
     * @param adapter a LoRA with its own start, active
     * @param data of each client
     * @param padId token that fills rows up
     * @param optimizer of each client's steps, made afresh each time
     * @param seed of drawing, batches, dropout and noise
     * @throws dev.espalier.EspalierException if a client has no data, ε cannot be reached, or the adapter is of another kind
     */
    public Federation(
            Config config,
            FederatedRule.Server server,
            Attached adapter,
            Task task,
            List<List<Encoding>> data,
            int padId,
            Optimizer.Config optimizer,
            Seed seed) {
        this.config = config;
        this.server = server;
        this.task = task;
        this.padId = padId;
        this.optimizer = optimizer;
        this.seed = seed.named("federation");
        check(
                data.size() == config.clients,
                "there are data for %d clients, and clients is %d; they must be as many",
                data.size(),
                config.clients);
        for (int k = 0; k < data.size(); k++) {
            check(
                    !data.get(k).isEmpty(),
                    "client %d of %d has no data; give it some, or lower clients",
                    k + 1,
                    data.size());
            clients.add(new Client(k, data.get(k), config));
        }
        Lora.Config lora = plain(adapter);
        trained = server.trained();
        adapter.parameters().values().forEach(p -> p.trainable(trained.containsValue(p)));
        gradients = config.isPrivate() ? new PerSampleGradients(adapter, trained.values(), lora.dropout()) : null;
    }

    private static Lora.Config plain(Attached adapter) {
        check(
                adapter.spec().config() instanceof Lora.Config
                        && adapter.sites().stream().allMatch(site -> adapter.at(site.path()) instanceof Lora),
                "a federation trains plain lora, found %s; set adapter.type to lora",
                adapter.spec().type().name());
        Lora.Config lora = (Lora.Config) adapter.spec().config();
        check(
                adapter.spec().initializer() == null
                        && (lora.init().equals("true") || lora.init().equals("gaussian")),
                "a federation starts lora with B at zero, found another start (%s); leave init_lora_weights out",
                lora.init());
        check(!lora.loraBias(), "lora_bias is not averaged by a federation; leave it out");
        return lora;
    }

    /** Noise of each client in units of the clip norm; zeros without noise. */
    public List<Double> sigmas() {
        return clients.stream().map(c -> c.sigma).toList();
    }

    /** Numbers that a client sends up in a round. */
    public long uploaded() {
        return trained.values().stream().mapToLong(p -> p.tensor().numel()).sum();
    }

    /** Carries out the next round. */
    public Round next() {
        rounds++;
        Seed here = seed.at(rounds);
        List<Client> drawn = draw(here);
        long examples = drawn.stream().mapToLong(c -> c.data.size()).sum();
        double[] seen = new double[2]; // loss, and what it is a sum over
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> start = values();
            List<FederatedRule.Upload> uploads = new ArrayList<>();
            task.model().train(true);
            for (Client client : drawn) {
                put(start);
                train(client, here.named("client").at(client.index), seen);
                uploads.add(new FederatedRule.Upload(client.index, (double) client.data.size() / examples, values()));
            }
            task.model().train(false);
            put(start);
            server.aggregate(uploads);
        }
        server.afterRound(rounds);
        return new Round(rounds, drawn.stream().map(c -> c.index + 1).toList(), seen[0] / seen[1], epsilon());
    }

    private List<Client> draw(Seed here) {
        List<Client> all = new ArrayList<>(clients);
        Collections.shuffle(all, new Random(here.named("drawn").value()));
        int count = Math.max(1, (int) Math.round(config.fraction * all.size()));
        return all.subList(0, count).stream()
                .sorted(java.util.Comparator.comparingInt(c -> c.index))
                .toList();
    }

    private double epsilon() {
        if (!config.isPrivate()) {
            return 0;
        }
        return clients.stream()
                .mapToDouble(c -> c.accountant.epsilon(config.delta))
                .max()
                .orElse(0);
    }

    private Map<String, Tensor> values() {
        Map<String, Tensor> copies = new LinkedHashMap<>();
        trained.forEach((key, p) -> copies.put(key, p.tensor().detach().clone()));
        return copies;
    }

    private void put(Map<String, Tensor> values) {
        try (Grad off = Grad.off()) {
            values.forEach((key, value) ->
                    java.util.Objects.requireNonNull(trained.get(key)).tensor().copy_(value));
        }
    }

    private void train(Client client, Seed here, double[] seen) {
        List<ParameterGroup> groups = List.of(new ParameterGroup("all", trained, 1, optimizer.weightDecay()));
        try (Optimizer fresh = optimizer.create(groups)) {
            for (int step = 0; step < client.steps; step++) {
                Seed at = here.named("step").at(step);
                Generator.seedDropout(at.named("dropout").value());
                try (Scope scope = Scope.open()) {
                    if (gradients != null) {
                        privateStep(client, gradients, at, seen);
                    } else {
                        step(client, here, step, seen);
                    }
                    fresh.step(config.learningRate);
                    fresh.zeroGrad();
                }
            }
        }
        if (config.isPrivate()) {
            client.accountant.add(client.sampling.chance(), client.sigma, client.steps);
        }
    }

    private void privateStep(Client client, PerSampleGradients taken, Seed at, double[] seen) {
        Map<Parameter, Tensor> sums = DpSgd.sums(trained.values());
        List<Encoding> drawn = client.sampling.draw(client.data, at);
        for (int from = 0; from < drawn.size(); from += config.physicalBatch) {
            try (Scope scope = Scope.open()) {
                List<Encoding> rows = drawn.subList(from, Math.min(drawn.size(), from + config.physicalBatch));
                Batch batch = Collator.batch(rows, padId);
                PerSampleGradients.Taken own = taken.of(task, batch);
                own.addClipped(config.clip, sums);
                note(batch, own.loss(), seen);
            }
        }
        client.sampling.setGradients(sums, client.sigma * config.clip, at);
    }

    /** A mean gradient, of bounded length; every round has an order of its own. */
    private void step(Client client, Seed here, int step, double[] seen) {
        Collator pass = new Collator(client.data, Collator.Options.of(config.batch, padId), here.named("order"));
        Batch batch = pass.batch(new Collator.Cursor(0, step));
        double units = task.units(batch);
        if (units > 0) {
            Tensor loss = task.loss(batch);
            note(batch, loss.item(), seen);
            loss.div(units).backward();
            Parameters.normAndClip(trained.values(), config.clip);
        }
    }

    private void note(Batch batch, double loss, double[] seen) {
        check(
                Double.isFinite(loss),
                "the loss is %s in round %d, on %s; lower the learning rate (%.3g)",
                loss,
                rounds,
                batch.sources().get(0),
                config.learningRate);
        seen[0] += loss;
        seen[1] += task.units(batch);
    }
}
