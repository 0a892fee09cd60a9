package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * ICM-LoRA: a conditional autoencoder learns the adapters of many tasks, and makes one from a task's vector and noise.
 *
 * <p>Shao, Yan, Liu et al., <i>In-Context Meta LoRA Generation</i>, IJCAI 2025, arXiv:2501.17635.
 *
 * <pre>{@code
 * x [L]: all A and B, each standardised;   c [d]: mean hidden state of the last block on samples of the task
 * loss = mean (decoder(z, c) - x)² + kl_weight · KL(N(μ, σ²) ‖ N(0, I)),   (μ, σ) = encoder(x, c),   z = μ + σ ∘ ε [h]
 * adapter = decoder(z, c), z from N(0, I), the standardisation undone
 * }</pre>
 *
 * <p>All tasks train together and the condition alone tells them apart; the released script trains one. Its loss compares every
 * reconstruction of a batch with every target, which destroys the condition: here each with its own. It undoes the standardisation
 * by a real checkpoint; here by the mean of the nearest task's ({@code statistics: task}) or by those of all together. The
 * vectors come from the text itself where the authors generate with beams. The optimiser is missing in the released code: Adam
 * without decay. The nearest checkpoint is always told, for consecutive checkpoints are near copies and may simply be remembered.
 * The network is checked against the authors' class, run as it is.
 */
public final class IcmLora implements AdapterGenerator<IcmLora.Config> {

    /** What standardises tensors. */
    public enum Statistics {
        /** Each checkpoint's own; undone by the mean of those of the task whose vector is nearest. */
        TASK,
        /** Those of all checkpoints together. */
        ALL
    }

    /**
     * Settings.
     *
     * @param latent h, at least 1
     * @param klWeight [kl_weight] at least 0
     * @param channels of the encoder's convolutions, each of which halves the length; the decoder has them in reverse
     * @param samples that a task's vector is the mean of, at most; at least 1
     * @param vectors [task_vectors] with or without the task's adapter
     * @param statistics what standardises tensors
     * @param batch at least 2
     * @param learningRate [learning_rate] above 0; half of it at the end
     * @param epochs at least 1
     */
    public record Config(
            int latent,
            double klWeight,
            List<Integer> channels,
            int samples,
            VectorSource vectors,
            Statistics statistics,
            int batch,
            double learningRate,
            int epochs) {

        /** The authors' code. */
        public static final Config DEFAULT = new Config(
                256,
                0.005,
                List.of(8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8),
                30,
                VectorSource.ADAPTED,
                Statistics.TASK,
                2,
                2e-4,
                2000);

        /** Checks ranges. */
        public Config {
            channels = List.copyOf(channels);
            check(latent >= 1, "latent must be at least 1, found %d; try 256", latent);
            check(
                    klWeight >= 0 && Double.isFinite(klWeight),
                    "kl_weight must be at least 0 and finite, found %s; try 0.005",
                    klWeight);
            check(
                    !channels.isEmpty()
                            && channels.size() <= 24
                            && channels.stream().allMatch(c -> c >= 1),
                    "channels must be 1 to 24 numbers of at least 1, found %s; try [8, 16, 32, 16, 8]",
                    channels);
            check(samples >= 1, "samples must be at least 1, found %d; try 30", samples);
            check(batch >= 2, "batch must be at least 2, which batch norm needs, found %d; try 2", batch);
            check(
                    learningRate > 0 && Double.isFinite(learningRate),
                    "learning_rate must be above 0 and finite, found %s; try 2e-4",
                    learningRate);
            check(epochs >= 1, "epochs must be at least 1, found %d; try 2000", epochs);
        }
    }

    @Override
    public About about() {
        return new About(
                "icm-lora",
                "generator",
                "a conditional autoencoder over adapters, which makes one from a task's vector",
                "Shao, Yan, Liu et al., In-Context Meta LoRA Generation, IJCAI 2025, arXiv:2501.17635",
                """
                adapter = decoder(z, c) [L],  z [h] from N(0, I),  c [d]: mean hidden state on samples of the task
                trained on checkpoints x [L] of all tasks: mean (decoder(z, c) - x)² + kl_weight · KL,  z from encoder(x, c)""",
                "plain LoRAs of one base, rank, scale and targets, a file of samples for each (--data), and one for the result (--for)",
                "a plain LoRA, with the head of the task's own adapter, else of the first one",
                true);
    }

    @Override
    public String reading() {
        return "the paper's own equations were not at hand, and the released script trains one task alone without an optimiser:"
                + " tasks train together, by Adam, each reconstruction is compared with its own target, and task vectors come from"
                + " the samples' own answers, not from generated ones. task_vectors: base and statistics: all are for tasks that"
                + " have no adapter.";
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "latent", "h, numbers of the latent vector, at least 1",
                "kl_weight", "weight of the divergence from N(0, I) in the loss, at least 0",
                "channels",
                        "of the encoder's convolutions, each of which halves the length; the decoder has them in reverse",
                "samples", "that a task's vector is the mean of, at most; at least 1",
                "task_vectors", "adapted (by the network with the task's own adapter) or base (without)",
                "statistics",
                        "task (tensors standardised one by one, undone by the nearest task's mean) or all (together)",
                "batch", "checkpoints in a batch, at least 2",
                "learning_rate", "at the start, above 0; half of it at the end",
                "epochs", "passes over all checkpoints, at least 1");
    }

    @Override
    public Config read(Fields f) {
        Config usual = Config.DEFAULT;
        return new Config(
                f.integer("latent", usual.latent()),
                f.number("kl_weight", usual.klWeight()),
                f.integers("channels", usual.channels()),
                f.integer("samples", usual.samples()),
                f.choice("task_vectors", usual.vectors()),
                f.choice("statistics", usual.statistics()),
                f.integer("batch", usual.batch()),
                f.number("learning_rate", usual.learningRate()),
                f.integer("epochs", usual.epochs()));
    }

    @Override
    public VectorSource vectors(Config config) {
        return config.vectors();
    }

    @Override
    public int samples(Config config) {
        return config.samples();
    }

    @Override
    public Made generate(Config config, List<Pool> pools, Tensor wanted, Seed seed) {
        LoraVectors kind = new LoraVectors(pools.get(0).checkpoints().get(0));
        for (Pool pool : pools) {
            check(
                    pool.vector().numel() == wanted.numel(),
                    "the task vector of %s has %d numbers and the wanted one %d, so they are of other models; take all of them from one, as merge icm-lora does",
                    pool.name(),
                    pool.vector().numel(),
                    wanted.numel());
            pool.checkpoints().forEach(checkpoint -> kind.require(pool.name(), checkpoint));
        }
        int nearest = nearest(pools, wanted);
        List<LoraVectors.Vector> own = new ArrayList<>(); // those of the nearest task
        List<Tensor> rows = new ArrayList<>();
        List<Tensor> conditions = new ArrayList<>();
        List<Map<String, LoraFactors>> all =
                pools.stream().flatMap(pool -> pool.checkpoints().stream()).toList();
        check(
                all.size() >= 2,
                "there is one checkpoint to learn from, and batch norm needs two; train with checkpointEvery and keepCheckpoints");
        LoraVectors.Vector together = config.statistics() == Statistics.ALL ? kind.together(all) : null;
        for (int i = 0; i < pools.size(); i++) {
            for (Map<String, LoraFactors> checkpoint : pools.get(i).checkpoints()) {
                LoraVectors.Vector vector = kind.vector(checkpoint);
                if (i == nearest) {
                    own.add(vector);
                }
                rows.add(together == null ? vector.values() : kind.standardised(checkpoint, together));
                conditions.add(pools.get(i).vector().reshape(-1));
            }
        }
        Cvae cvae = new Cvae(kind.length(), wanted.numel(), config.latent(), config.channels(), DType.FLOAT32, seed);
        try (cvae) {
            Tensor x = padded(Tensor.stack(rows, 0), cvae.length()); // [N, L']
            Tensor c = Tensor.stack(conditions, 0).to(DType.FLOAT32); // [N, d]
            Map<String, Double> figures = new LinkedHashMap<>();
            figures.put("checkpoints", (double) rows.size());
            figures.putAll(CvaeTraining.of(config, cvae, x, c, seed.named("icm-lora")));
            Tensor made = draw(config, cvae, wanted, seed.named("icm-lora-z")); // [L']
            figures.putAll(compared(made, x));
            return new Made(
                    kind.restored(
                            together == null
                                    ? mean(made, own)
                                    : new LoraVectors.Vector(made, together.means(), together.deviations())),
                    figures);
        }
    }

    /** The pool whose vector has the largest cosine with the wanted one. */
    private static int nearest(List<Pool> pools, Tensor wanted) {
        int best = 0;
        double most = Double.NEGATIVE_INFINITY;
        Tensor to = wanted.to(DType.FLOAT64).reshape(-1);
        for (int i = 0; i < pools.size(); i++) {
            Tensor from = pools.get(i).vector().to(DType.FLOAT64).reshape(-1);
            double cosine = cosine(from, to);
            if (cosine > most) {
                most = cosine;
                best = i;
            }
        }
        return best;
    }

    private static double cosine(Tensor a, Tensor b) {
        return a.mul(b).sum().item() / Math.max(a.norm().item() * b.norm().item(), Double.MIN_NORMAL);
    }

    /** Undone by the mean statistics of a task's checkpoints. */
    private static LoraVectors.Vector mean(Tensor made, List<LoraVectors.Vector> of) {
        double[] means = new double[of.get(0).means().length];
        double[] deviations = means.clone();
        for (LoraVectors.Vector each : of) {
            for (int i = 0; i < means.length; i++) {
                means[i] += each.means()[i] / of.size();
                deviations[i] += each.deviations()[i] / of.size();
            }
        }
        return new LoraVectors.Vector(made, means, deviations);
    }

    private static Tensor padded(Tensor rows, long length) {
        return rows.to(DType.FLOAT32).pad(0, length - rows.size(1));
    }

    private static Tensor draw(Config config, Cvae cvae, Tensor wanted, Seed seed) {
        try (Grad off = Grad.off();
                Generator g = seed.generator()) {
            Tensor c = wanted.to(DType.FLOAT32).reshape(1, -1);
            return cvae.decode(g.randn(1, config.latent()), c).select(0, 0);
        }
    }

    /** How near the nearest checkpoint is. */
    private static Map<String, Double> compared(Tensor made, Tensor x) {
        Map<String, Double> figures = new LinkedHashMap<>();
        Tensor distances = x.sub(made).norm(1, false); // [N]
        double[] d = distances.to(DType.FLOAT64).doubles();
        int best = 0;
        for (int i = 1; i < d.length; i++) {
            best = d[i] < d[best] ? i : best;
        }
        Tensor near = x.select(0, best);
        figures.put("nearest_checkpoint_distance", d[best] / near.norm().item());
        figures.put("nearest_checkpoint_cosine", cosine(made, near));
        return figures;
    }
}
