package dev.espalier.merge;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Json;
import dev.espalier.merge.AdapterGenerator.Pool;
import dev.espalier.merge.AdapterGenerator.VectorSource;
import dev.espalier.merge.IcmLora.Config;
import dev.espalier.merge.IcmLora.Statistics;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The network at its size against the authors' numbers; what training does, on one of six halvings, whose steps take milliseconds. */
class IcmLoraTest {

    private static final List<Integer> NARROW = List.of(8, 16, 32, 32, 16, 8);

    private Scope scope;
    private Generator g;

    @BeforeEach
    void open() {
        scope = Scope.open();
        g = Generator.of(3);
    }

    @AfterEach
    void close() {
        g.close();
        scope.close();
    }

    private static Config config(List<Integer> channels, int latent, double kl, int batch, double rate, int epochs) {
        return new Config(latent, kl, channels, 30, VectorSource.ADAPTED, Statistics.TASK, batch, rate, epochs);
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    private Map<String, LoraFactors> lora(double size) {
        Map<String, LoraFactors> made = new LinkedHashMap<>();
        for (String path : List.of("layers.2", "layers.10")) {
            made.put(
                    path,
                    new LoraFactors(
                            g.randn(2, 5).mul(size), g.randn(4, 2).mul(size).add(1), 2, null));
        }
        return made;
    }

    // ---- vectors

    @Test
    @Card(value = "icm-lora", checks = 1)
    void vectorsGiveTheirAdaptersBack() {
        Map<String, LoraFactors> lora = lora(1);
        LoraVectors kind = new LoraVectors(lora);
        assertThat(kind.length()).isEqualTo(2 * (10 + 8));
        LoraVectors.Vector vector = kind.vector(lora);
        assertThat(vector.values().narrow(0, 0, 10).mean().item()).isCloseTo(0, within(1e-12));
        assertThat(vector.values().narrow(0, 0, 10).std().item()).isCloseTo(1, within(1e-12));
        // plain order of names: layers.10 first
        Tensor first = lora.get("layers.10").a().to(DType.FLOAT64).reshape(-1);
        assertThat(vector.means()[0]).isCloseTo(first.mean().item(), within(1e-12));
        Tensor padded = vector.values().pad(0, 28);
        LoraVectors.Vector all = kind.together(List.of(lora, lora(3)));
        List<Map<String, LoraFactors>> both = List.of(
                kind.restored(new LoraVectors.Vector(padded, vector.means(), vector.deviations())),
                kind.restored(new LoraVectors.Vector(kind.standardised(lora, all), all.means(), all.deviations())));
        for (Map<String, LoraFactors> back : both) {
            lora.forEach((path, f) -> {
                assertThat(gap(back.get(path).a(), f.a()))
                        .isLessThan(1e-6 * f.a().abs().max().item());
                assertThat(gap(back.get(path).b(), f.b()))
                        .isLessThan(1e-6 * f.b().abs().max().item());
                assertThat(back.get(path).scale()).isEqualTo(2);
            });
        }
        // B at the start has no deviation, and still comes back
        LoraFactors start = new LoraFactors(g.randn(2, 5), Tensor.zeros(DType.FLOAT32, 4, 2), 1, null);
        LoraVectors fresh = new LoraVectors(Map.of("x", start));
        assertThat(fresh.restored(fresh.vector(Map.of("x", start)))
                        .get("x")
                        .b()
                        .abs()
                        .max()
                        .item())
                .isZero();
    }

    // ---- the network

    private static Map<String, Object> golden() {
        try {
            return Json.read(Path.of(Objects.requireNonNull(IcmLoraTest.class.getResource("/golden/merge/icm.json"))
                    .toURI()));
        } catch (java.net.URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> map(Map<String, Object> of, String key) {
        return (Map<String, Object>) Objects.requireNonNull(of.get(key), key);
    }

    private static Tensor numbers(Map<String, Object> of, String key, long... shape) {
        double[] values = ((List<?>) Objects.requireNonNull(of.get(key), key))
                .stream().mapToDouble(n -> ((Number) n).doubleValue()).toArray();
        return shape.length == 0 ? Tensor.of(values, values.length) : Tensor.of(values, shape);
    }

    @Test
    @Card(value = "icm-lora", checks = 2)
    void sizesAreThoseOfTheAuthorsClass() {
        Map<String, Object> counts = map(golden(), "counts");
        for (long[] size : new long[][] {{1_929_928, 768, 7_508_369}, {4096, 16, 2_290_521}}) {
            try (Cvae cvae = new Cvae(size[0], size[1], 256, Config.DEFAULT.channels(), DType.FLOAT32, new Seed(1))) {
                long count = cvae.trained().values().stream()
                        .mapToLong(p -> p.tensor().numel())
                        .sum();
                assertThat(count).isEqualTo(size[2]);
                assertThat(((Number) counts.get(String.valueOf(size[0]))).longValue())
                        .isEqualTo(count);
                assertThat(cvae.length()).isEqualTo((size[0] + 4095) / 4096 * 4096);
                assertThat(cvae.deepest()).isEqualTo(cvae.length() / 4096);
                cvae.train(false);
                if (size[0] == 4096) {
                    Cvae.Code code = cvae.encode(g.randn(2, 4096), g.randn(2, 16));
                    assertThat(code.mu().shape()).containsExactly(2, 256);
                    assertThat(cvae.decode(code.mu(), g.randn(2, 16)).shape()).containsExactly(2, 4096);
                }
            }
        }
    }

    /** The formula of {@code tools/golden/make_icm_fixtures.py}. */
    private static void fill(Cvae cvae) {
        Map<String, Parameter> sorted = new TreeMap<>(cvae.trained());
        int i = 0;
        for (Map.Entry<String, Parameter> e : sorted.entrySet()) {
            Tensor place = e.getValue().tensor();
            Tensor wave = Tensor.arange(place.numel())
                    .to(DType.FLOAT64)
                    .mul(0.013)
                    .add(0.1 + 0.7 * i)
                    .sin()
                    .reshape(place.shape());
            if (place.dim() > 1) {
                place.copy_(wave.div(Math.sqrt(place.numel() / (double) place.size(0))));
            } else {
                place.copy_(wave.mul(0.1).add(e.getKey().endsWith("1.weight") ? 1 : 0));
            }
            i++;
        }
    }

    @Test
    @Card(
            value = "icm-lora",
            checks = {2, 3})
    void passesLossesAndGradientsAreThoseOfTheAuthorsClass() {
        Map<String, Object> its = golden();
        try (Cvae cvae = new Cvae(4000, 3, 4, Config.DEFAULT.channels(), DType.FLOAT64, new Seed(1))) {
            try (Grad off = Grad.off()) {
                fill(cvae);
            }
            Tensor ramp = Tensor.arange(4000).to(DType.FLOAT64).mul(0.05).unsqueeze(0);
            Tensor rows = Tensor.of(new double[] {0, 1}, 2, 1);
            Tensor x = ramp.add(rows).sin().mul(rows.add(1)).pad(0, 96);
            Tensor c = Tensor.of(new double[] {0.3, -1.0, 0.5, 1.2, 0.1, -0.7}, 2, 3);
            cvae.trained().values().forEach(p -> p.trainable(true));
            for (String mode : List.of("train", "eval")) {
                cvae.train(mode.equals("train"));
                Map<String, Object> expected = map(its, mode);
                Cvae.Code code = cvae.encode(x, c);
                Tensor made = cvae.decode(code.mu(), c);
                assertThat(gap(code.mu(), numbers(expected, "mu", 2, 4))).isLessThan(1e-8);
                assertThat(gap(code.logVariance(), numbers(expected, "log_var", 2, 4)))
                        .isLessThan(1e-8);
                assertThat(gap(made.narrow(1, 0, 40), numbers(expected, "recons", 2, 40)))
                        .isLessThan(1e-8);
                double own = numbers(expected, "own", 1).item();
                assertThat(code.divergence().item())
                        .isCloseTo(numbers(expected, "kld", 1).item(), within(1e-8));
                assertThat(CvaeTraining.error(made, x).item()).isCloseTo(own, within(1e-8));
                // the released loss is another: every reconstruction against every target
                double broadcast = made.sub(x.unsqueeze(1)).square().mean().item();
                assertThat(broadcast)
                        .isCloseTo(numbers(expected, "broadcast", 1).item(), within(1e-8));
                if (mode.equals("train")) {
                    CvaeTraining.error(made, x).add(code.divergence(), 0.005).backward();
                    map(its, "gradients").keySet().forEach(name -> {
                        Tensor gradient = Objects.requireNonNull(cvae.trained().get(name), name)
                                .tensor()
                                .grad();
                        Tensor theirs = numbers(map(its, "gradients"), name);
                        assertThat(gap(gradient.reshape(-1).narrow(0, 0, theirs.numel()), theirs))
                                .as(name)
                                .isLessThan(1e-8);
                    });
                    Tensor running = cvae.namedParameters()
                            .get("encoder.11.1.running_var")
                            .tensor();
                    assertThat(gap(running, numbers(its, "running_var", 8))).isLessThan(1e-8);
                }
            }
        }
    }

    @Test
    @Card(value = "icm-lora", checks = 3)
    void theDivergenceIsTheKlOfNormals() {
        Tensor zero = Tensor.zeros(DType.FLOAT64, 3, 4);
        assertThat(new Cvae.Code(zero, zero).divergence().item()).isZero();
        Tensor mu = g.randn(1, 4).to(DType.FLOAT64);
        Tensor logVariance = g.randn(1, 4).to(DType.FLOAT64);
        Tensor noise = g.randn(100_000, 4).to(DType.FLOAT64);
        Cvae.Code code = new Cvae.Code(mu, logVariance);
        Tensor z = code.at(noise);
        // log q(z) - log p(z): the constants fall out
        Tensor q = noise.square().add(logVariance).sum(1, false).mul(-0.5);
        Tensor p = z.square().sum(1, false).mul(-0.5);
        double sampled = q.sub(p).mean().item();
        assertThat(code.divergence().item()).isCloseTo(sampled, within(0.03 * sampled));
        // equal targets: the released loss and ours are one; else not
        Tensor made = g.randn(2, 8);
        Tensor same = g.randn(1, 8).expand(2, 8);
        assertThat(CvaeTraining.error(made, same).item())
                .isCloseTo(made.sub(same.unsqueeze(1)).square().mean().item(), within(1e-6));
        Tensor near = made.add(0.1);
        assertThat(made.sub(near.unsqueeze(1)).square().mean().item()
                        - CvaeTraining.error(made, near).item())
                .isGreaterThan(0.1);
    }

    @Test
    @Card(value = "icm-lora", checks = 4)
    void itLearnsOneSequence() {
        Tensor x = g.randn(1, 256).expand(2, 256).contiguous();
        Tensor c = g.randn(1, 4).expand(2, 4).contiguous();
        try (Cvae cvae = new Cvae(256, 4, 16, NARROW, DType.FLOAT32, new Seed(1))) {
            double error = CvaeTraining.of(config(NARROW, 16, 0, 2, 3e-3, 200), cvae, x, c, new Seed(2))
                    .get("reconstruction_error");
            assertThat(error).isLessThan(1e-3);
            try (Grad off = Grad.off()) {
                Tensor back = cvae.decode(cvae.encode(x, c).mu(), c);
                assertThat(CvaeTraining.error(back, x).item()).isLessThan(0.05);
            }
        }
    }

    /** Two tasks: base vectors [2, 256], eight copies of each with noise. */
    private record Two(Tensor bases, Tensor x, Tensor conditions, Tensor c) {

        static Two of(Generator g) {
            Tensor bases = g.randn(2, 256);
            Tensor conditions = g.randn(2, 4);
            List<Tensor> x = new ArrayList<>();
            List<Tensor> c = new ArrayList<>();
            for (int i = 0; i < 16; i++) {
                x.add(bases.select(0, i % 2).add(g.randn(256), 0.1));
                c.add(conditions.select(0, i % 2));
            }
            return new Two(bases, Tensor.stack(x, 0), conditions, Tensor.stack(c, 0));
        }
    }

    private static double cosine(Tensor a, Tensor b) {
        return a.mul(b).sum().item() / (a.norm().item() * b.norm().item());
    }

    @Test
    @Card(
            value = "icm-lora",
            checks = {5, 7, 8})
    void theConditionTellsTasksApart() {
        Two two = Two.of(g);
        try (Cvae cvae = new Cvae(256, 4, 16, NARROW, DType.FLOAT32, new Seed(1))) {
            CvaeTraining.of(config(NARROW, 16, 0.005, 4, 3e-3, 60), cvae, two.x(), two.c(), new Seed(2));
            try (Grad off = Grad.off()) {
                int right = 0;
                Tensor last = null;
                double apart = two.bases()
                        .select(0, 0)
                        .sub(two.bases().select(0, 1))
                        .norm()
                        .item();
                for (int i = 0; i < 40; i++) {
                    Tensor z = g.randn(1, 16);
                    int task = i % 2;
                    Tensor c = two.conditions().narrow(0, task, 1);
                    Tensor made = cvae.decode(z, c).select(0, 0);
                    assertThat(cvae.decode(z, c).select(0, 0).equal(made)).isTrue(); // of c, z and weights alone
                    double own = cosine(made, two.bases().select(0, task));
                    double other = cosine(made, two.bases().select(0, 1 - task));
                    right += own > other ? 1 : 0;
                    if (last != null) {
                        assertThat(made.equal(last)).isFalse();
                    }
                    last = made;
                    double norm = made.norm().item()
                            / two.bases().select(0, task).norm().item();
                    assertThat(norm).isBetween(0.5, 1.5);
                    assertThat(two.x().sub(made).norm(1, false).min().item()).isLessThan(apart);
                }
                assertThat(right).isGreaterThanOrEqualTo(39);
            }
        }
    }

    // ---- adapters

    /** Tasks y = x (W + D_t)ᵀ of one layer of 8 to 8, learnt by LoRAs of rank 2 from one start. */
    private final class Tasks {
        private final Tensor[] changes = {
            g.randn(8, 2).matmul(g.randn(2, 8)), g.randn(8, 2).matmul(g.randn(2, 8))
        };
        private final Tensor a0 = g.randn(2, 8).mul(0.35);

        double loss(int task, Map<String, LoraFactors> lora) {
            return lora.get("x").product().sub(changes[task]).square().mean().item();
        }

        Pool pool(int task, Tensor vector) {
            List<Map<String, LoraFactors>> checkpoints = new ArrayList<>();
            Parameter a = new Parameter(a0.clone());
            Parameter b = new Parameter(Tensor.zeros(DType.FLOAT32, 8, 2));
            a.trainable(true);
            b.trainable(true);
            try (Optimizer adam =
                    AdamW.Config.DEFAULT.create(List.of(new ParameterGroup("all", Map.of("a", a, "b", b), 1, 0)))) {
                for (int step = 1; step <= 400; step++) {
                    adam.zeroGrad();
                    b.tensor()
                            .matmul(a.tensor())
                            .sub(changes[task])
                            .square()
                            .sum()
                            .backward();
                    adam.step(0.02);
                    if (step > 300 && step % 10 == 0) {
                        checkpoints.add(Map.of(
                                "x",
                                new LoraFactors(
                                        a.tensor().detach().clone(),
                                        b.tensor().detach().clone(),
                                        1,
                                        null)));
                    }
                }
            }
            return new Pool("task " + task, checkpoints, vector);
        }
    }

    @Test
    @Card(
            value = "icm-lora",
            checks = {6, 8})
    void aMadeAdapterDoesItsTask() {
        Tasks tasks = new Tasks();
        Tensor conditions = g.randn(2, 4);
        List<Pool> pools = List.of(tasks.pool(0, conditions.select(0, 0)), tasks.pool(1, conditions.select(0, 1)));
        Config config = config(List.of(8, 16, 16, 8), 8, 0.005, 10, 1e-2, 100);
        for (int task = 0; task < 2; task++) {
            AdapterGenerator.Made made = new IcmLora().generate(config, pools, conditions.select(0, task), new Seed(1));
            double ours = tasks.loss(task, made.factors());
            Map<String, LoraFactors> last = pools.get(task).checkpoints().get(9);
            double none = tasks.changes[task].square().mean().item();
            LoraFactors other = pools.get(1 - task).checkpoints().get(9).get("x");
            LoraFactors mine = last.get("x");
            double average = tasks.loss(
                    task,
                    Map.of(
                            "x",
                            new LoraFactors(
                                    mine.a().add(other.a()).mul(0.5),
                                    mine.b().add(other.b()).mul(0.5),
                                    1,
                                    null)));
            assertThat(ours - tasks.loss(task, last)).isLessThan(0.05 * none); // a few points of what there is to learn
            assertThat(ours).isLessThan(average / 4);
            assertThat(made.figures()).containsEntry("checkpoints", 20.0);
            assertThat(made.figures().get("nearest_checkpoint_cosine")).isGreaterThan(0.95);
        }
        Config brief = config(List.of(8, 8), 4, 0.005, 10, 1e-2, 1);
        Tensor[] twice = new Tensor[2];
        for (int i = 0; i < 2; i++) {
            twice[i] = new IcmLora()
                    .generate(brief, pools, conditions.select(0, 0), new Seed(1))
                    .factors()
                    .get("x")
                    .product();
        }
        assertThat(twice[0].equal(twice[1])).isTrue();
    }

    @Test
    void badInputIsRefusedWithAReason() {
        Config usual = Config.DEFAULT;
        Pool one = new Pool("a", List.of(lora(1), lora(1)), g.randn(4));
        assertThatThrownBy(() -> new IcmLora().generate(usual, List.of(one), g.randn(6), new Seed(0)))
                .hasMessage(
                        "the task vector of a has 4 numbers and the wanted one 6, so they are of other models; take all of them from one, as merge icm-lora does");
        Map<String, LoraFactors> other = new LinkedHashMap<>(lora(1));
        other.put("layers.2", new LoraFactors(g.randn(3, 5), g.randn(4, 3), 2, null));
        assertThatThrownBy(() -> new IcmLora()
                        .generate(
                                usual,
                                List.of(one, new Pool("b", List.of(other), g.randn(4))),
                                g.randn(4),
                                new Seed(0)))
                .hasMessage(
                        "layers.2.lora_A.weight of b has the shape [3, 5] and that of the first task [2, 5]; generate from adapters of one rank on one base");
        assertThatThrownBy(() -> new IcmLora()
                        .generate(usual, List.of(new Pool("b", List.of(lora(1)), g.randn(4))), g.randn(4), new Seed(0)))
                .hasMessageStartingWith("there is one checkpoint to learn from");
        other.remove("layers.2");
        assertThatThrownBy(() -> new IcmLora()
                        .generate(
                                usual,
                                List.of(one, new Pool("b", List.of(other), g.randn(4))),
                                g.randn(4),
                                new Seed(0)))
                .hasMessageStartingWith("the adapters of b stand on other layers");
        Map<String, LoraFactors> louder = new LinkedHashMap<>();
        lora(1).forEach((path, f) -> louder.put(path, new LoraFactors(f.a(), f.b(), 4, null)));
        assertThatThrownBy(() -> new IcmLora()
                        .generate(
                                usual,
                                List.of(one, new Pool("b", List.of(louder), g.randn(4))),
                                g.randn(4),
                                new Seed(0)))
                .hasMessageContaining("generate from adapters of one lora_alpha");
        try (Cvae cvae = new Cvae(60, 2, 4, NARROW, DType.FLOAT32, new Seed(1))) {
            cvae.train(true);
            assertThatThrownBy(() -> cvae.encode(g.randn(1, 64), g.randn(1, 2)))
                    .hasMessage(
                            "a batch of one sequence of 64 numbers leaves one value a channel, of which there is no variance; train with batch 2 or more");
        }
        assertThatThrownBy(() -> config(NARROW, 0, 0, 2, 1, 1))
                .hasMessage("latent must be at least 1, found 0; try 256");
        assertThatThrownBy(() -> config(NARROW, 1, -1, 2, 1, 1)).hasMessageContaining("kl_weight must be at least 0");
        assertThatThrownBy(() -> config(List.of(), 1, 0, 2, 1, 1)).hasMessageContaining("channels must be 1 to 24");
        assertThatThrownBy(() -> config(NARROW, 1, 0, 1, 1, 1))
                .hasMessage("batch must be at least 2, which batch norm needs, found 1; try 2");
        assertThatThrownBy(() -> config(NARROW, 1, 0, 2, 0, 1)).hasMessageContaining("learning_rate must be above 0");
        assertThatThrownBy(() -> config(NARROW, 1, 0, 2, 1, 0)).hasMessageContaining("epochs must be at least 1");
        assertThatThrownBy(() -> new Config(1, 0, NARROW, 0, VectorSource.BASE, Statistics.ALL, 2, 1, 1))
                .hasMessageContaining("samples must be at least 1");
    }
}
