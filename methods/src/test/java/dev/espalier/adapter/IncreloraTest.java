package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.io.Json;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.Importance;
import dev.espalier.task.Evaluator;
import dev.espalier.task.Task;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Callback;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Schedule;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import dev.espalier.train.TrainingRun;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class IncreloraTest extends AdapterContract {

    private static final Increlora.Type TYPE = new Increlora.Type();
    private static final int STEPS = 30;
    private static final int WARMUP = 3;

    private static Increlora.Config config(int init, int target, int step, boolean advance, boolean keepScale) {
        return new Increlora.Config(
                init, target, step, 1, 2, 2, 0.85, 0.85, 0.1, 6, 0, advance, true, keepScale, Map.of());
    }

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(TYPE, config(3, 4, 1, true, false), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out + 1);
    }

    private static Increlora on(Linear layer, Increlora.Config config) {
        return (Increlora) TYPE.create(config, List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x");
    }

    private static void randomise(Increlora adapter) {
        try (Generator g = Generator.of(3);
                Grad off = Grad.off()) {
            adapter.parameters().values().forEach(p -> p.tensor().copy_(g.randn(p.shape())));
        }
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> {
            Increlora adapter = on(layer, config(2, 3, 1, true, false));
            randomise(adapter);
            return adapter;
        });
    }

    @Test
    @Card(value = "increlora", checks = 1)
    void theReserveHardlyShowsOrNotAtAll() {
        for (boolean advance : new boolean[] {true, false}) {
            Linear layer = Gradients.layer();
            Increlora adapter = on(layer, config(1, 2, 1, advance, false));
            try (Generator g = Generator.of(2);
                    Grad off = Grad.off()) {
                Tensor x = g.randn(7, 4).to(DType.FLOAT64);
                Tensor plain = layer.compute(x);
                assertThat(adapter.forward(x, new Base.Ground(layer)).equal(plain))
                        .isTrue();
                adapter.factors().reserve(1);
                double gap = gap(adapter.forward(x, new Base.Ground(layer)), plain);
                if (advance) {
                    assertThat(gap / plain.abs().max().item()).isBetween(1e-14, 1e-5);
                } else {
                    assertThat(gap).isZero();
                }
            }
        }
    }

    @Test
    @Card(value = "increlora", checks = 2)
    void contractionMergedAndExportedAgree(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default", AdapterSpec.of(TYPE, config(1, 2, 1, true, false), Targets.of("fc", "proj")), new Seed(1));
        Increlora fc = (Increlora) adapter.at("layers.0.fc");
        fc.factors().reserve(1);
        fc.factors().reserve(1);
        fc.factors().reserve(1); // three live, one in reserve
        move(adapter, 0.3);
        fc.factors().rest(true);
        assertThat(fc.factors().rank()).isEqualTo(3);
        Tensor unmerged = run(net);
        Map<String, Parameter> p = fc.parameters();
        Tensor change = Tensor.zeros(DType.FLOAT64, 10, 8);
        for (String number : List.of("", ".1", ".2")) {
            change = change.add(p.get("lora_B" + number)
                    .tensor()
                    .matmul(p.get("lora_A" + number)
                            .tensor()
                            .mul(p.get("lora_E" + number).tensor())));
        }
        try (Grad off = Grad.off()) {
            Tensor x = Tensor.ones(DType.FLOAT64, 2, 8);
            Linear layer = net.layers.get(0).fc;
            assertThat(gap(
                            fc.forward(x, new Base.Ground(layer)),
                            layer.compute(x).add(x.matmul(change.t()), 6 / (3 + 1e-5))))
                    .isLessThan(1e-12);
        }
        model.merge();
        assertThat(gap(run(net), unmerged)).isLessThan(1e-12);
        model.unmerge();
        PeftFolder.exportLora(model, "default", folder.resolve("lora"), PeftFolder.Info.of("tiny", null), 0, Map.of());
        PeftFolder.save(
                model,
                "default",
                folder.resolve("own"),
                PeftFolder.Info.of("tiny", null),
                PeftFolder.Form.PLAIN,
                Map.of());
        model.remove("default");
        Attached lora = PeftFolder.load(model, folder.resolve("lora"), null, false);
        assertThat(gap(run(net), unmerged)).isLessThan(1e-12);
        assertThat(((Lora) lora.at("layers.0.fc")).a().shape()).containsExactly(3, 8);
        model.remove("default");
        Attached own = PeftFolder.load(model, folder.resolve("own"), null, true);
        assertThat(gap(run(net), unmerged)).isLessThan(1e-12);
        assertThat(own.parameters()).hasSize(12); // the blocks are one
    }

    /** G is the gradient of an explicit ΔW, with a second batch and dropout's place taken by none. */
    @ParameterizedTest
    @ValueSource(strings = {"FLOAT64", "FLOAT32"})
    @Card(value = "increlora", checks = 3)
    void scoreEqualsBruteForce(String type, @TempDir Path unused) {
        DType dtype = DType.valueOf(type);
        Tiny net = new Tiny(dtype);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default", AdapterSpec.of(TYPE, config(1, 2, 1, true, false), Targets.of("fc")), new Seed(1));
        move(adapter, 0.3);
        Increlora fc = (Increlora) adapter.at("layers.1.fc");
        Tensor change;
        try (Grad off = Grad.off()) {
            change = fc.toLora().product();
        }
        AtomicReference<Double> own = new AtomicReference<>();
        TrainConfig config = TrainConfig.builder()
                .steps(10)
                .batchSize(4)
                .accumulation(2)
                .learningRate(0.01)
                .build();
        AtomicReference<Trainer> made = new AtomicReference<>();
        List<Batch> batches = new ArrayList<>();
        Callback look = new Callback() {
            @Override
            public void afterBackward(StepContext step) {
                if (step.step() == 1) {
                    own.set(fc.sensitivity().item());
                }
                made.get().requestStop();
            }
        };
        // Before the method's own callback, which asks too.
        AdapterType.Parts parts = adapter.parts(new Seed(0));
        Trainer.Builder builder = Trainer.builder(new TinyTask(net), TinyTask.data(4, 24))
                .config(config)
                .groups(List.of(new ParameterGroup("all", model.trainableParameters(), 1, 0)))
                .callback(look)
                .callback(parts.callbacks().get(0));
        made.set(builder.build());
        Collator data = TinyTask.data(4, 24);
        batches.add(data.batch(new Collator.Cursor(0, 0)));
        batches.add(data.batch(new Collator.Cursor(0, 1)));
        // The same loss with ΔW as a leaf, before anything has moved.
        Tensor leaf = change.clone().requiresGrad_(true);
        Linear layer = net.layers.get(1).fc;
        layer.substitute((x, self) -> self == null ? x : layer.compute(x).add(x.matmul(leaf.t())));
        TinyTask task = new TinyTask(net);
        for (Batch batch : batches) {
            task.loss(batch).mul(1 / 8.0).backward();
        }
        double expected = change.mul(leaf.grad()).abs().sum().item() / Math.sqrt(80);
        model.activate("default");
        adapter.parameters().values().forEach(p -> p.tensor().clearGrad());
        try (Trainer trainer = made.get()) {
            trainer.train();
        }
        assertThat(own.get()).isCloseTo(expected, within((dtype == DType.FLOAT64 ? 1e-10 : 1e-5) * expected));
    }

    /** By hand: I = 1, 0, 2 with β1 = 0.5, β2 = 0.75 gives Ī = 0.5, 0.25, 1.125 and Ū = 0.125, 0.15625, 0.3359375. */
    @Test
    @Card(value = "increlora", checks = 3)
    void meansFollowTheFormula() {
        Importance importance = new Importance(0.5, 0.75);
        double[] scores = {0.5 * 0.125, 0.25 * 0.15625, 1.125 * 0.3359375};
        double[] seen = {1, 0, 2};
        for (int i = 0; i < 3; i++) {
            importance.observe("x", Tensor.scalar(seen[i], DType.FLOAT64));
            assertThat(importance.score("x").item()).isEqualTo(scores[i]);
        }
    }

    @Test
    @Card(value = "increlora", checks = 4)
    void goingLiveChangesTheScaleAlone() {
        for (boolean advance : new boolean[] {true, false}) {
            for (boolean keepScale : new boolean[] {true, false}) {
                Linear layer = Gradients.layer();
                Increlora adapter = on(layer, config(1, 4, 2, advance, keepScale));
                adapter.factors().reserve(2);
                try (Generator g = Generator.of(3);
                        Grad off = Grad.off()) {
                    for (String name : List.of("lora_A", "lora_B", "lora_E", "lora_A.1", "lora_B.1")) {
                        Tensor p = adapter.parameters().get(name).tensor();
                        p.copy_(g.randn(p.shape()));
                    }
                    Tensor x = g.randn(7, 4).to(DType.FLOAT64);
                    Tensor plain = layer.compute(x);
                    Tensor before = adapter.forward(x, new Base.Ground(layer)).sub(plain);
                    adapter.factors().reserve(2);
                    assertThat(adapter.factors().rank()).isEqualTo(3);
                    Tensor after = adapter.forward(x, new Base.Ground(layer)).sub(plain);
                    double factor = keepScale ? 1 : (1 + 1e-5) / (3 + 1e-5);
                    double gap =
                            gap(after, before.mul(factor)) / before.abs().max().item();
                    assertThat(gap).isLessThan(advance ? 1e-6 : 1e-15);
                }
            }
        }
    }

    private static final TrainConfig TRAIN = TrainConfig.builder()
            .steps(STEPS)
            .batchSize(4)
            .accumulation(2)
            .learningRate(0.02)
            .schedule(new Schedule(Schedule.Curve.LINEAR, WARMUP, 0))
            .optimizer(new AdamW.Config(0.9, 0.999, 1e-8, 0.1))
            .logEvery(STEPS)
            .build();

    private record Trained(AdaptedModel model, Attached adapter, Tiny net) {
        Increlora layer(String path) {
            return (Increlora) adapter.at(path);
        }

        long total() {
            return adapter.sites().stream()
                    .mapToLong(site -> layer(site.path()).factors().rank())
                    .sum();
        }
    }

    private static Trained setUp(boolean advance) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach(
                "default",
                AdapterSpec.of(TYPE, config(1, 2, 1, advance, false), Targets.of("fc", "proj")),
                new Seed(1));
        return new Trained(model, adapter, net);
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    @Card(
            value = "increlora",
            checks = {5, 6, 7})
    void ranksComeInTurnAndNewOnesStartSlowly(boolean advance) {
        Trained all = setUp(advance);
        List<Long> totals = new ArrayList<>();
        Map<String, double[]> born = new LinkedHashMap<>();
        Map<String, Parameter> fresh = new LinkedHashMap<>();
        Map<Long, double[]> rates = new LinkedHashMap<>(); // of the group that came at step 4
        Callback watch = new Callback() {
            private final Map<String, Parameter> known = new LinkedHashMap<>(all.adapter.parameters());

            @Override
            public void beforeStep(TrainingRun run, long step) {
                run.groups().stream()
                        .filter(group -> group.name().equals("grown at step 4"))
                        .forEach(group -> rates.put(step - 1, new double[] {
                            group.lrFactor() * run.config().schedule().factor(step - 1, STEPS)
                        }));
            }

            @Override
            public void afterBackward(StepContext step) { // after the method's own
                fresh.clear();
                all.adapter.parameters().forEach((key, p) -> {
                    if (!known.containsKey(key)) {
                        known.put(key, p);
                        fresh.put(key, p);
                        born.put(key, p.tensor().doubles());
                    }
                });
            }

            @Override
            public void afterStep(StepContext step) {
                totals.add(all.total());
                fresh.forEach(
                        (key, p) -> assertThat(p.tensor().doubles()).as(key).isEqualTo(born.get(key)));
                if (all.total() < 8) { // check 6: what is in reserve now
                    all.adapter.sites().forEach(site -> {
                        Map<String, Parameter> p = all.layer(site.path()).parameters();
                        int last = p.size() / 3 - 1;
                        assertThat(p.get("lora_E." + last).tensor().floats()).containsExactly(advance ? 1e-5f : 0f);
                        assertThat(p.get("lora_E." + last).tensor().grad()).isNull();
                    });
                }
            }
        };
        AtomicReference<TrainingRun> run = new AtomicReference<>();
        try (Trainer trainer = TinyTask.trainer(all.net, all.adapter, all.model, TRAIN)
                .callback(watch)
                .callback(new Callback() {
                    @Override
                    public void afterTraining(TrainingRun done) {
                        run.set(done);
                    }
                })
                .build()) {
            trainer.train();
        }
        // t = 4, 6, 8, 10: the first multiples of 2 above 2
        List<Long> expected = new ArrayList<>();
        for (int t = 0; t < STEPS; t++) {
            expected.add((long) Math.min(8, 4 + (t < 4 ? 0 : (t - 2) / 2)));
        }
        assertThat(totals).isEqualTo(expected);
        all.adapter.sites().forEach(site -> {
            Map<String, Parameter> p = all.layer(site.path()).parameters();
            int last = p.size() / 3 - 1;
            assertThat(p.get("lora_E." + last).tensor().floats()).containsExactly(0f); // the reserve
            for (String factor : List.of("lora_A.", "lora_B.")) {
                double[] start = born.get(Attached.PREFIX + site.path() + "." + factor + last);
                boolean moved = !Arrays.equals(p.get(factor + last).tensor().doubles(), start);
                assertThat(moved).as(factor).isEqualTo(advance);
            }
        });
        assertThat(rates.get(5L)[0]).isZero();
        assertThat(rates.get(6L)[0]).isCloseTo(1 / 3.0, within(1e-12));
        assertThat(rates.get(8L)[0]).isCloseTo(1, within(1e-12));
        assertThat(rates.get(29L)[0]).isCloseTo(1 / 22.0, within(1e-12)); // T' = 25, w = 3: (25 - 24) / 22
        long elements = all.adapter.parameters().entrySet().stream()
                .filter(e -> run.get().parameters().containsKey(e.getKey()))
                .mapToLong(e -> e.getValue().tensor().numel())
                .sum();
        // 8 live (in + out + 1), and with advance learning 4 reserves (in + out)
        assertThat(elements).isEqualTo(8 * 19 + (advance ? 4 * 18 : 0));
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void stoppedAndResumedItEndsOnTheSameBits(boolean advance, @TempDir Path folder) {
        Trained whole = train(setUp(advance), folder.resolve("whole"), -1, false);
        for (long stop : new long[] {1, 5, 7, 20}) {
            Path out = folder.resolve("stopped" + stop);
            train(setUp(advance), out, stop, false);
            Trained resumed = train(setUp(advance), out, -1, true);
            assertThat(resumed.adapter.parameters().keySet())
                    .isEqualTo(whole.adapter.parameters().keySet());
            whole.adapter
                    .parameters()
                    .forEach((key, p) -> assertThat(resumed.adapter
                                    .parameters()
                                    .get(key)
                                    .tensor()
                                    .equal(p.tensor()))
                            .as("%d %s", stop, key)
                            .isTrue());
            for (String count : List.of("trainable_parameters", "optimizer_bytes")) {
                assertThat(Json.read(out.resolve("run.json")).get(count))
                        .isEqualTo(Json.read(folder.resolve("whole/run.json")).get(count));
            }
        }
        assertThat(Json.read(folder.resolve("whole/run.json")))
                .containsEntry("trainable_parameters", advance ? 224L : 152L);
    }

    private static Trained train(Trained all, Path out, long stopAt, boolean resume) {
        AtomicReference<Trainer> made = new AtomicReference<>();
        made.set(TinyTask.trainer(all.net, all.adapter, all.model, TRAIN)
                .out(out)
                .resume(resume)
                .callback(new Callback() {
                    @Override
                    public void afterStep(StepContext step) {
                        if (step.step() == stopAt) {
                            made.get().requestStop();
                        }
                    }
                })
                .build());
        try (Trainer trainer = made.get()) {
            trainer.train();
        }
        return all;
    }

    /** Two layers that learn a change each, of ranks 1 and 5, from random inputs. */
    private static final class Two extends Module implements Task {
        final Embedding table = child("table", new Embedding(96, 12, DType.FLOAT32));
        final List<Linear> layers = List.of(
                child("low", new Linear(12, 12, false, DType.FLOAT32)),
                child("high", new Linear(12, 12, false, DType.FLOAT32)));
        final List<Tensor> wanted = new ArrayList<>();

        Two(int seed) {
            try (Generator g = Generator.of(seed)) {
                table.weightParameter().tensor().copy_(g.randn(96, 12));
                for (int rank : new int[] {1, 5}) {
                    wanted.add(g.randn(12, rank).matmul(g.randn(rank, 12)).mul(1 / Math.sqrt(rank)));
                }
            }
            layers.forEach(layer -> layer.weightParameter().tensor().fill_(0));
        }

        @Override
        public Module model() {
            return this;
        }

        @Override
        public Outcome forward(Batch batch) {
            Tensor x = table.forward(batch.inputIds()).reshape(-1, 12);
            Tensor loss = Tensor.scalar(0, DType.FLOAT32);
            for (int i = 0; i < 2; i++) {
                Tensor error =
                        layers.get(i).forward(x).sub(x.matmul(wanted.get(i).t()));
                loss = loss.add(error.square().mean(1, false).sum());
            }
            Tensor sum = loss;
            return new Outcome() {
                @Override
                public Tensor loss() {
                    return sum;
                }

                @Override
                public Tensor logits() {
                    return x;
                }

                @Override
                public Tensor targets() {
                    return batch.labels();
                }
            };
        }

        @Override
        public Evaluator evaluator() {
            throw new UnsupportedOperationException();
        }

        @Override
        public Metric metric() {
            return new Metric("loss", false);
        }
    }

    @Test
    @Card(value = "increlora", checks = 8)
    void ranksGoWhereTheyAreNeeded() {
        double[] grown = new double[5];
        double[] uniform = new double[5];
        for (int seed = 0; seed < 5; seed++) {
            int[] ranks = new int[2];
            grown[seed] = fit(1, seed, ranks);
            assertThat(ranks[0] + ranks[1]).isEqualTo(6);
            assertThat(ranks[1]).as("seed %d", seed).isGreaterThan(3);
            uniform[seed] = fit(3, seed, ranks);
            assertThat(ranks).containsExactly(3, 3);
        }
        Arrays.sort(grown);
        Arrays.sort(uniform);
        assertThat(grown[2]).isLessThan(uniform[2]);
    }

    private static double fit(int init, int seed, int[] ranks) {
        try (Scope scope = Scope.open()) {
            Two task = new Two(seed);
            AdaptedModel model = new AdaptedModel(task, List.of());
            Increlora.Config config =
                    new Increlora.Config(init, 3, 1, 1, 80, 40, 0.85, 0.85, 0.001, 6, 0, true, true, false, Map.of());
            Attached adapter =
                    model.attach("default", AdapterSpec.of(TYPE, config, Targets.of("low", "high")), new Seed(seed));
            List<Encoding> encodings = new ArrayList<>();
            for (int i = 0; i < 96; i++) {
                encodings.add(new Encoding(new int[] {i}, null, new boolean[1], 0, "two.csv:" + i));
            }
            TrainConfig train = TrainConfig.builder()
                    .steps(400)
                    .batchSize(32)
                    .learningRate(0.03)
                    .schedule(new Schedule(Schedule.Curve.LINEAR, 10, 0))
                    .logEvery(400)
                    .build();
            AdapterType.Parts parts = adapter.parts(new Seed(seed));
            Trainer.Builder builder = Trainer.builder(
                            task, new Collator(encodings, Collator.Options.of(32, 0), new Seed(seed)))
                    .config(train)
                    .parameters(model.trainableParameters())
                    .callback(parts.callbacks().get(0))
                    .lossTerm(parts.lossTerms().get(0));
            try (Trainer trainer = builder.build()) {
                trainer.train();
            }
            for (int i = 0; i < 2; i++) {
                ranks[i] = ((Increlora) adapter.at(i == 0 ? "low" : "high"))
                        .factors()
                        .rank();
            }
            double error = 0;
            try (Grad off = Grad.off()) {
                for (int i = 0; i < 2; i++) {
                    error += ((Increlora) adapter.at(i == 0 ? "low" : "high"))
                            .toLora()
                            .product()
                            .sub(task.wanted.get(i))
                            .square()
                            .sum()
                            .item();
                }
            }
            return error;
        }
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> config(0, 2, 1, true, false)).hasMessage("init_r must be at least 1, found 0; try 1");
        assertThatThrownBy(() -> config(3, 2, 1, true, false))
                .hasMessage("target_r must be at least init_r = 3, found 2; try 6");
        assertThatThrownBy(() -> config(1, 5, 0, true, false))
                .hasMessage(
                        "rank_step must be at least 1, found 0; 0 means half of target_r and is for 2, 4, 6 and 8 alone, not 5");
        Trained all = setUp(true);
        TrainConfig shorter = TrainConfig.builder().steps(9).batchSize(4).build();
        try (Trainer trainer =
                TinyTask.trainer(all.net, all.adapter, all.model, shorter).build()) {
            assertThatThrownBy(trainer::train)
                    .hasMessage(
                            "the last ranks would come at step 10, after the end of the training of 9 steps; lower init_warmup 2 and"
                                    + " interval 2, or raise top_h");
        }
        Tiny net = new Tiny(DType.FLOAT32);
        assertThatThrownBy(() -> new AdaptedModel(net, net.heads())
                        .attach(
                                "default",
                                AdapterSpec.of(TYPE, config(1, 2, 1, true, false), Targets.of("embed_tokens")),
                                new Seed(1)))
                .hasMessage(
                        "embed_tokens is an embedding, whose input is ids and no vector that increlora could change; name linear layers, or use lora");
    }
}
