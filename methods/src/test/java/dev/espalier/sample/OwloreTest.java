package dev.espalier.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Full;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.Setting;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.data.Collator;
import dev.espalier.data.Encoding;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.optim.GaLore;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.Task;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Callback;
import dev.espalier.train.Schedule;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import dev.espalier.train.TrainingRun;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class OwloreTest {

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static Owlore.Config config(int gamma, int interval, double tau, Lisa.State state) {
        return new Owlore.Config(gamma, interval, tau, Owlore.Weighting.OWL, 128, List.of(), state);
    }

    /** Two layers in a row, 6 to 5 to 4, that are a block of their own. */
    private static final class Pair extends Module {
        final Linear first = child("first", new Linear(6, 5, false, DType.FLOAT64));
        final Linear second = child("second", new Linear(5, 4, false, DType.FLOAT64));

        Pair(Generator g) {
            first.weightParameter().tensor().copy_(g.randn(5, 6));
            second.weightParameter().tensor().copy_(g.randn(4, 5));
        }

        Tensor forward(Tensor x) {
            return second.forward(first.forward(x));
        }
    }

    private static Calibration data(List<Tensor> inputs, java.util.function.UnaryOperator<Tensor> network) {
        return new Calibration() {
            @Override
            public long batches() {
                return inputs.size();
            }

            @Override
            public Tensor loss(long batch) {
                return network.apply(inputs.get((int) batch)).sum();
            }
        };
    }

    @Test
    @Card(
            value = "owlore",
            checks = {1, 2})
    void sharesAreThoseOfACountByHand() {
        try (Generator g = Generator.of(3)) {
            Pair pair = new Pair(g);
            List<Tensor> inputs =
                    List.of(g.randn(2, 3, 6).to(DType.FLOAT64), g.randn(1, 4, 6).to(DType.FLOAT64));
            Calibration data = data(inputs, pair::forward);
            for (double tau : new double[] {0, 0.5, 1, 2, 3}) {
                double[] found = Owlore.weights(config(1, 1, tau, Lisa.State.RESET), List.of(pair), data);
                List<Double> entries = new ArrayList<>();
                for (Layer layer : List.of(pair.first, pair.second)) {
                    double[][] squares = new double[1][(int) layer.inFeatures()];
                    for (Tensor x : inputs) {
                        Tensor received = layer == pair.first ? x : pair.first.compute(x);
                        double[] values = received.reshape(-1).doubles();
                        for (int i = 0; i < values.length; i++) {
                            squares[0][i % squares[0].length] += values[i] * values[i];
                        }
                    }
                    double[] w = layer.weight().doubles();
                    for (int i = 0; i < w.length; i++) {
                        entries.add(Math.abs(w[i]) * Math.sqrt(squares[0][i % squares[0].length]));
                    }
                }
                double mean = entries.stream().mapToDouble(a -> a).average().orElseThrow();
                double share = entries.stream().filter(a -> a > tau * mean).count() / (double) entries.size();
                assertThat(found[0]).isCloseTo(share, within(1e-12));
                assertThat(tau == 0 ? found[0] : found[0] * tau).isLessThanOrEqualTo(1);
            }
            assertThat(pair.first.substitute()).isNull();
        }
    }

    @Test
    @Card(
            value = "owlore",
            checks = {1, 2})
    void sharesDoNotSeeACommonScaleAndCountPlantedEntries() {
        try (Generator g = Generator.of(3)) {
            List<Tensor> scores = List.of(g.randn(10, 20).abs(), g.randn(30, 10).abs());
            for (double tau : new double[] {1, 2, 3}) {
                double share = Owlore.share(scores, tau);
                for (double c : new double[] {2, 4}) {
                    assertThat(Owlore.share(scores.stream().map(a -> a.mul(c)).toList(), tau))
                            .isEqualTo(share);
                }
            }
            double tau = 13;
            assertThat(Owlore.share(scores, tau)).isZero();
            for (int k : new int[] {1, 10, 38, 39, 60}) { // 500 entries: below 1/13 up to 38
                Tensor planted = scores.get(0).clone();
                planted.reshape(-1).narrow(0, 0, k).fill_(1e6);
                double share = Owlore.share(List.of(planted, scores.get(1)), tau);
                assertThat(share).isEqualTo(k < 500 / tau ? k / 500.0 : 0).isLessThan(1 / tau);
            }
            assertThat(Owlore.share(scores, 0)).isEqualTo(1); // all alike: LISA
            Tensor half = scores.get(0).clone();
            half.narrow(0, 0, 5).fill_(0);
            assertThat(Owlore.share(List.of(half), 0)).isEqualTo(0.5);
        }
    }

    /** The chance of each block to be one of two drawn one after the other. */
    private static double[] exact(double[] q) {
        double[] chance = q.clone();
        for (int i = 0; i < q.length; i++) {
            for (int j = 0; j < q.length; j++) {
                chance[i] += i == j ? 0 : q[j] * q[i] / (1 - q[j]);
            }
        }
        return chance;
    }

    @Test
    @Card(value = "owlore", checks = 3)
    void chancesAreThoseOfSuccessiveDraws() {
        double[] q = {0.5, 0.2, 0.15, 0.1, 0.05};
        double[] weights = Arrays.stream(q).map(w -> 7 * w).toArray();
        Lisa.Draw draw = Owlore.weighted(new Seed(4), weights, 2);
        double[] counts = new double[5];
        for (int n = 0; n < 20_000; n++) {
            Set<Integer> drawn = draw.of(n);
            assertThat(drawn).hasSize(2);
            drawn.forEach(i -> counts[i] += 1 / 20_000.0);
        }
        double[] expected = exact(q);
        assertThat(expected[0]).isCloseTo(0.795, within(1e-3));
        for (int i = 0; i < 5; i++) {
            assertThat(counts[i]).isCloseTo(expected[i], within(0.015));
        }
        assertThat(Math.abs(counts[0] - 2 * q[0])).isGreaterThan(0.15);
        assertThat(draw.of(17))
                .isEqualTo(Owlore.weighted(new Seed(4), weights, 2).of(17));
        assertThatThrownBy(() -> Owlore.weighted(new Seed(4), new double[] {0, 0.3, 0}, 2))
                .hasMessage(
                        "owlore draws 2 blocks, and only 1 of 3 have a weight above 0; lower tau, or lisa_activated_layers to 1");
    }

    @Test
    void otherWeightings() {
        try (Generator g = Generator.of(3)) {
            List<Pair> blocks = List.of(new Pair(g), new Pair(g), new Pair(g));
            List<Double> known = List.of(0.1, 0.3, 0.2);
            java.util.function.Function<Owlore.Weighting, double[]> by = weighting -> Owlore.weights(
                    new Owlore.Config(1, 1, 13, weighting, 1, known, Lisa.State.KEEP), blocks, Calibration.NONE);
            assertThat(by.apply(Owlore.Weighting.OWL)).containsExactly(0.1, 0.3, 0.2);
            assertThat(by.apply(Owlore.Weighting.OWL_REVERSE))
                    .containsExactly(new double[] {0.2, 0, 0.1}, within(1e-15));
            assertThat(by.apply(Owlore.Weighting.UNIFORM)).containsExactly(1, 1, 1);
            assertThat(by.apply(Owlore.Weighting.DECREASE)).containsExactly(3, 2, 1);
            assertThat(by.apply(Owlore.Weighting.INCREASE)).containsExactly(1, 2, 3);
            double squares = 0;
            for (Linear layer : List.of(blocks.get(0).first, blocks.get(0).second)) {
                squares += layer.weight().square().sum().item();
            }
            assertThat(by.apply(Owlore.Weighting.NORM)[0]).isCloseTo(Math.sqrt(squares), within(1e-12));
        }
    }

    /** A language model of two blocks whose weights all train, by OwLore and GaLore of rank 2. */
    private static final class Setup implements AutoCloseable {
        final Pretrained base = Models.load(
                Path.of("src/test/resources/golden/peft/bases/llama"),
                Purpose.causalLm(),
                LoadOptions.defaults().withPrecision(Precision.FP32));
        final AdaptedModel model = AdaptedModel.of(base.model());
        final Attached adapter =
                model.attach("default", AdapterSpec.of(new Full(), Full.Config.DEFAULT, Targets.NONE), new Seed(1));
        final Task task = new CausalLmTask(base.causalLm(), 0);
        final List<? extends Module> blocks = base.model().backbone().layers();

        static Collator data() {
            Random random = new Random(5);
            List<Encoding> encodings = new ArrayList<>();
            for (int i = 0; i < 12; i++) {
                int[] ids = random.ints(6, 3, 30).toArray();
                boolean[] supervised = new boolean[6];
                Arrays.fill(supervised, true);
                encodings.add(new Encoding(ids, null, supervised, null, "tiny:" + i));
            }
            return new Collator(encodings, Collator.Options.of(4, 0), new Seed(11));
        }

        Setting setting(TrainConfig config) {
            Collator data = data();
            Calibration calibration = new Calibration() {
                @Override
                public long batches() {
                    return 3;
                }

                @Override
                public Tensor loss(long batch) {
                    return task.loss(data.batch(new Collator.Cursor(0, (int) batch)));
                }
            };
            return new Setting(model, adapter, task, config, new Seed(3), calibration);
        }

        void train(long steps, boolean galore, Owlore.Config config, Callback... others) {
            TrainConfig.Builder train = TrainConfig.builder()
                    .steps(steps)
                    .clip(0)
                    .learningRate(0.01)
                    .schedule(new Schedule(Schedule.Curve.CONSTANT, 0, 0));
            Setting setting = setting(train.build());
            if (galore) {
                GaLore.Config low =
                        new GaLore.Config(GaLore.Form.ADAMW, 2, 100, 1, new AdamW.Config(0.9, 0.999, 1e-6, 0));
                train.optimizer(new GaLore().create(low, setting));
            }
            Trainer.Builder builder = Trainer.builder(task, data())
                    .parameters(model.trainableParameters())
                    .config(train.build());
            if (config != null) {
                builder.callback(new Owlore().create(config, setting));
            }
            Arrays.stream(others).forEach(builder::callback);
            try (Trainer trainer = builder.build()) {
                trainer.train();
            }
        }

        Map<String, Tensor> values() {
            Map<String, Tensor> values = new LinkedHashMap<>();
            base.model()
                    .namedParameters()
                    .forEach((path, p) -> values.put(path, p.tensor().detach().clone()));
            return values;
        }

        @Override
        public void close() {
            model.close();
            base.close();
        }
    }

    private static Callback after(Consumer<TrainingRun> work) {
        return new Callback() {
            @Override
            public void afterStep(StepContext step) {
                work.accept(step.run());
            }
        };
    }

    @Test
    @Card(value = "owlore", checks = 4)
    void onlyDrawnBlocksAndWhatLiesOutsideMove() {
        try (Setup setup = new Setup()) {
            Map<String, Tensor> last = new LinkedHashMap<>(setup.values());
            List<Set<Integer>> drawn = new ArrayList<>();
            setup.train(6, true, config(1, 2, 1, Lisa.State.RESET), after(run -> {
                Map<String, Tensor> now = setup.values();
                Set<Integer> moved = new LinkedHashSet<>();
                for (int i = 0; i < setup.blocks.size(); i++) {
                    for (Map.Entry<String, Parameter> e :
                            setup.blocks.get(i).namedParameters().entrySet()) {
                        String path = setup.base.model().namedParameters().entrySet().stream()
                                .filter(p -> p.getValue() == e.getValue())
                                .findFirst()
                                .orElseThrow()
                                .getKey();
                        if (!now.get(path).equal(last.get(path))) {
                            moved.add(i);
                        }
                    }
                }
                drawn.add(moved);
                now.forEach((path, value) -> last.put(path, value.keep()));
            }));
            assertThat(drawn).allSatisfy(moved -> assertThat(moved).hasSize(1));
            for (int i = 0; i < 6; i += 2) {
                assertThat(drawn.get(i)).isEqualTo(drawn.get(i + 1));
            }
            last.values().forEach(Tensor::close);
        }
    }

    @Test
    @Card(value = "owlore", checks = 5)
    void allBlocksAtATimeIsGaLoreOrAdamW() {
        for (boolean galore : new boolean[] {true, false}) {
            Map<String, Tensor> plain;
            try (Setup setup = new Setup()) {
                setup.train(4, galore, null);
                plain = setup.values();
            }
            for (Lisa.State state : List.of(Lisa.State.RESET, Lisa.State.KEEP)) {
                try (Setup setup = new Setup()) {
                    setup.train(4, galore, config(setup.blocks.size(), 2, 1, state));
                    setup.values()
                            .forEach((path, value) -> assertThat(value.equal(plain.get(path)))
                                    .as(path)
                                    .isTrue());
                }
            }
        }
    }

    @Test
    @Card(value = "owlore", checks = 6)
    void stateIsThatOfTheDrawnBlocksUnlessItIsKept() {
        try (Setup setup = new Setup()) {
            long outside = 0;
            long low = 0; // of a block: r short + 2 r long of linear weights, 2 of the rest
            Set<Parameter> ofBlocks = new LinkedHashSet<>();
            setup.blocks.forEach(
                    block -> ofBlocks.addAll(block.namedParameters().values()));
            for (Parameter p :
                    new LinkedHashSet<>(setup.base.model().namedParameters().values())) {
                outside += ofBlocks.contains(p) ? 0 : 2 * p.tensor().numel();
            }
            for (Parameter p : setup.blocks.get(0).namedParameters().values()) {
                long[] shape = p.shape();
                low += shape.length == 2
                        ? 2 * Math.min(shape[0], shape[1]) + 2 * 2 * Math.max(shape[0], shape[1])
                        : 2 * p.tensor().numel();
            }
            for (Lisa.State state : List.of(Lisa.State.RESET, Lisa.State.KEEP)) {
                List<Long> held = new ArrayList<>();
                Owlore.Config alike = new Owlore.Config(
                        1, 1, 13, Owlore.Weighting.UNIFORM, 1, List.of(), state); // both have their turn
                setup.train(
                        8, true, alike, after(run -> held.add(run.optimizer().stateBytes() / 4)));
                if (state == Lisa.State.RESET) {
                    assertThat(held).containsOnly(outside + low);
                } else {
                    assertThat(held.get(7)).isEqualTo(outside + 2 * low).isGreaterThan(held.get(0));
                }
            }
        }
    }

    @Test
    @Card(value = "owlore", checks = 7)
    void theChangeOfAnUnbrokenStretchIsOfLowRank() {
        try (Setup setup = new Setup()) {
            Map<String, Tensor> start = setup.values();
            setup.train(5, true, config(setup.blocks.size(), 5, 1, Lisa.State.RESET));
            Map<String, Tensor> end = setup.values();
            int matrices = 0;
            for (String path : start.keySet()) {
                if (path.contains("layers.") && path.contains("proj") && path.endsWith("weight")) {
                    double[] values =
                            end.get(path).sub(start.get(path)).svd().get(1).doubles();
                    assertThat(Arrays.stream(values).filter(v -> v > 1e-5).count())
                            .as(path)
                            .isLessThanOrEqualTo(2);
                    matrices++;
                }
            }
            assertThat(matrices).isGreaterThanOrEqualTo(14);
        }
    }

    /** The comparison of losses at equal memory is a matter of real models: docs/evidence.md. */
    @Test
    @Card(value = "owlore", checks = 8)
    void theBlockWithPlantedOutliersTrainsMostOften() {
        try (Setup setup = new Setup()) {
            Layer planted = setup.base.model().backbone().layers().get(1).namedModules().values().stream()
                    .filter(Layer.class::isInstance)
                    .map(Layer.class::cast)
                    .findFirst()
                    .orElseThrow();
            try (Grad off = Grad.off()) {
                planted.weightParameter()
                        .tensor()
                        .detach()
                        .reshape(-1)
                        .narrow(0, 0, 12)
                        .fill_(40);
            }
            Setting setting = setup.setting(TrainConfig.DEFAULT);
            double[] weights = Owlore.weights(config(1, 1, 5, Lisa.State.RESET), setup.blocks, setting.calibration());
            assertThat(weights[1]).isGreaterThan(2 * weights[0]);
            Lisa.Draw draw = Owlore.weighted(new Seed(1), weights, 1);
            assertThat(IntStream.range(0, 100)
                            .filter(n -> draw.of(n).contains(1))
                            .count())
                    .isGreaterThan(60);
        }
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> config(1, 1, Double.NaN, Lisa.State.RESET))
                .hasMessage("tau must be at least 0 and finite, found NaN; try 13");
        assertThatThrownBy(() -> new Owlore.Config(1, 1, 13, Owlore.Weighting.OWL, 0, List.of(), Lisa.State.RESET))
                .hasMessage("calibration_sequences must be at least 1, found 0; try 128");
        assertThatThrownBy(() -> new Owlore.Config(1, 1, 13, Owlore.Weighting.OWL, 1, List.of(-1.0), Lisa.State.RESET))
                .hasMessage(
                        "outlier_scores must be at least 0 and finite, found -1.0; leave them out to have them computed");
        try (Setup setup = new Setup()) {
            Setting setting = setup.setting(TrainConfig.DEFAULT);
            assertThatThrownBy(() -> new Owlore()
                            .create(
                                    new Owlore.Config(
                                            1, 1, 13, Owlore.Weighting.OWL, 1, List.of(1.0), Lisa.State.RESET),
                                    setting))
                    .hasMessageStartingWith("outlier_scores has 1 numbers, and the network has ");
            assertThatThrownBy(() -> new Owlore().create(config(99, 1, 13, Lisa.State.RESET), setting))
                    .hasMessageStartingWith("lisa_activated_layers is 99, and the network has ");
        }
        assertThatThrownBy(() -> Owlore.weights(
                        config(1, 1, 13, Lisa.State.RESET), List.of(new Tiny(DType.FLOAT32)), Calibration.NONE))
                .hasMessageStartingWith("owlore starts from gradients or activations on calibration batches");
        assertThat(new Owlore().objection(new Full())).isNull();
        assertThat(new Owlore().objection(new Lora.Type())).startsWith("OwLore trains whole blocks of the network");
    }
}
