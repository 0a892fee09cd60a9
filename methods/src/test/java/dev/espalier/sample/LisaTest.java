package dev.espalier.sample;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Full;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.adapter.TinyTask;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Callback;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Schedule;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import dev.espalier.train.TrainingRun;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** On a network of two blocks, with given draws where a test is about them. */
class LisaTest {

    private static final long EMBED = 11 * 8;
    private static final long HEAD = 3 * 8 + 3;
    private static final long BLOCK = 16 + 90 + 88;

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    /** A network whose weights all train, by LISA with given draws. */
    private static final class Setup {
        final Tiny net = new Tiny(DType.FLOAT32);
        final AdaptedModel model = new AdaptedModel(net, net.heads());
        final Attached adapter =
                model.attach("default", AdapterSpec.of(new Full(), Full.Config.DEFAULT, Targets.NONE), new Seed(1));

        Lisa.Sampling sampling(int gamma, int interval, Lisa.State state, Lisa.Draw draw) {
            List<Collection<Parameter>> blocks = new ArrayList<>();
            net.layers.forEach(block -> blocks.add(block.namedParameters().values()));
            return new Lisa.Sampling(new Lisa.Config(gamma, interval, state), blocks, draw);
        }

        void train(TrainConfig config, Callback... callbacks) {
            Trainer.Builder builder = TinyTask.trainer(net, adapter, model, config);
            for (Callback callback : callbacks) {
                builder.callback(callback);
            }
            try (Trainer trainer = builder.build()) {
                trainer.train();
            }
        }

        Map<String, Tensor> values() {
            Map<String, Tensor> values = new LinkedHashMap<>();
            net.namedParameters()
                    .forEach((path, p) -> values.put(path, p.tensor().detach().clone()));
            return values;
        }
    }

    private static TrainConfig.Builder config(long steps) {
        return TrainConfig.builder()
                .steps(steps)
                .batchSize(8)
                .clip(0)
                .learningRate(0.01)
                .optimizer(new AdamW.Config(0.9, 0.999, 1e-8, 0.1))
                .schedule(new Schedule(Schedule.Curve.CONSTANT, 0, 0));
    }

    /** One block a draw, in turn. */
    private static Set<Integer> inTurn(long n) {
        return Set.of((int) (n % 2));
    }

    private static boolean outside(String path) {
        return !path.startsWith("layers.");
    }

    @Test
    @Card(
            value = "lisa",
            checks = {1, 2})
    void onlyTheDrawnBlocksAndWhatLiesOutsideMove() {
        Setup setup = new Setup();
        List<String> faults = new ArrayList<>();
        Callback watch = new Callback() {
            private Map<String, Tensor> before = Map.of();

            @Override
            public void beforeStep(TrainingRun run, long step) {
                before.values().forEach(Tensor::close);
                before = setup.values();
                before.values().forEach(Tensor::keep);
                Set<String> expected = new LinkedHashSet<>(before.keySet());
                long block = (step - 1) / 3 % 2;
                expected.removeIf(path -> !outside(path) && !path.startsWith("layers." + block));
                Set<String> found = new LinkedHashSet<>();
                long count = 0;
                for (Map.Entry<String, Parameter> e :
                        setup.net.namedParameters().entrySet()) {
                    if (e.getValue().isTrainable()) {
                        found.add(e.getKey());
                        count += e.getValue().tensor().numel();
                    }
                }
                if (!found.equals(expected) || count != EMBED + HEAD + BLOCK) {
                    faults.add("step %d trains %s".formatted(step, found));
                }
            }

            @Override
            public void afterStep(StepContext step) {
                setup.net.namedParameters().forEach((path, p) -> {
                    if (p.tensor().equal(before.get(path)) == p.isTrainable()) {
                        faults.add("%s at step %d".formatted(path, step.step()));
                    }
                });
            }
        };
        setup.train(config(8).build(), setup.sampling(1, 3, Lisa.State.RESET, LisaTest::inTurn), watch);
        assertThat(faults).isEmpty();
        assertThat(setup.net.namedParameters().values()).allMatch(Parameter::isTrainable);
    }

    @Test
    @Card(
            value = "lisa",
            checks = {3})
    void allBlocksAtATimeIsAdamW() {
        for (Lisa.State state : List.of(Lisa.State.RESET, Lisa.State.KEEP)) {
            Setup plain = new Setup();
            plain.train(config(7).build());
            Setup lisa = new Setup();
            lisa.train(config(7).build(), lisa.sampling(2, 3, state, n -> Set.of(0, 1)));
            same(lisa.values(), plain.values());
        }
    }

    @Test
    @Card(
            value = "lisa",
            checks = {3})
    void allBlocksAndResetAllIsAdamWMadeAnewAtEachDraw() {
        Setup lisa = new Setup();
        lisa.train(config(7).build(), lisa.sampling(2, 3, Lisa.State.RESET_ALL, n -> Set.of(0, 1)));
        Setup plain = new Setup();
        List<ParameterGroup> groups = List.of(new ParameterGroup("all", plain.model.trainableParameters(), 1, 0.1));
        TinyTask task = new TinyTask(plain.net);
        Collator data = TinyTask.data(8, 24);
        Collator.Cursor cursor = Collator.Cursor.START;
        for (int step = 0; step < 7; ) {
            try (Optimizer adam = config(7).build().optimizer().create(groups)) {
                for (int i = 0; i < 3 && step < 7; i++, step++) {
                    Batch batch = data.batch(cursor);
                    task.loss(batch).mul(1 / task.units(batch)).backward();
                    adam.step(0.01);
                    adam.zeroGrad();
                    cursor = data.after(cursor);
                }
            }
        }
        same(lisa.values(), plain.values());
    }

    private static void same(Map<String, Tensor> a, Map<String, Tensor> b) {
        a.forEach((path, value) -> assertThat(value.equal(b.get(path))).as(path).isTrue());
    }

    @Test
    @Card(
            value = "lisa",
            checks = {4, 7})
    void gradientsAreThoseOfFullTuning() {
        Setup full = new Setup();
        loss(full).backward();
        for (Set<Integer> drawn : List.of(Set.<Integer>of(), Set.of(0), Set.of(1))) {
            Setup setup = new Setup();
            for (int i = 0; i < 2; i++) {
                int block = i;
                setup.net.layers.get(i).namedParameters().values().forEach(p -> p.trainable(drawn.contains(block)));
            }
            loss(setup).backward();
            setup.net.namedParameters().forEach((path, p) -> {
                Tensor gradient = p.tensor().grad();
                if (outside(path) || drawn.contains(path.startsWith("layers.0") ? 0 : 1)) {
                    Tensor expected =
                            full.net.namedParameters().get(path).tensor().grad();
                    assertThat(gradient.sub(expected).norm().item())
                            .as(path)
                            .isLessThanOrEqualTo(1e-6 * expected.norm().item());
                } else {
                    assertThat(gradient).as(path).isNull();
                }
            });
        }
    }

    private static Tensor loss(Setup setup) {
        return new TinyTask(setup.net).loss(TinyTask.data(8, 24).batch(Collator.Cursor.START));
    }

    @Test
    @Card(
            value = "lisa",
            checks = {4})
    void withoutBlocksOnlyTheRestMoves() {
        Setup setup = new Setup();
        Map<String, Tensor> start = setup.values();
        setup.train(config(4).build(), setup.sampling(0, 2, Lisa.State.RESET, n -> Set.of()));
        setup.values()
                .forEach((path, value) ->
                        assertThat(value.equal(start.get(path))).as(path).isEqualTo(!outside(path)));
    }

    @Test
    @Card(
            value = "lisa",
            checks = {5})
    void drawsAreUniformWithoutReplacementAndRepeat() {
        int blocks = 6;
        int gamma = 2;
        int draws = 1500;
        Lisa.Draw draw = Lisa.uniform(new Seed(4), blocks, gamma);
        Lisa.Draw again = Lisa.uniform(new Seed(4), blocks, gamma);
        int[] counts = new int[blocks];
        for (int n = 0; n < draws; n++) {
            Set<Integer> drawn = draw.of(n);
            assertThat(drawn).hasSize(gamma).allMatch(block -> block >= 0 && block < blocks);
            assertThat(again.of(n)).isEqualTo(drawn);
            drawn.forEach(block -> counts[block]++);
        }
        double p = gamma / (double) blocks;
        for (int count : counts) {
            assertThat((double) count).isCloseTo(draws * p, within(4 * Math.sqrt(draws * p * (1 - p))));
        }
        int never = 0; // over runs of 4 draws, a block is never visited with chance (1 - p)⁴
        int runs = draws / 4;
        for (int run = 0; run < runs; run++) {
            Set<Integer> visited = new LinkedHashSet<>();
            for (int n = 0; n < 4; n++) {
                visited.addAll(draw.of(4 * run + n));
            }
            never += blocks - visited.size();
        }
        assertThat(never / (double) (runs * blocks)).isCloseTo(Math.pow(1 - p, 4), within(0.03));
    }

    @Test
    @Card(
            value = "lisa",
            checks = {6})
    void stateIsThatOfWhatTrains() {
        assertThat(held(Lisa.State.RESET)).allMatch(elements -> elements == 2 * (EMBED + HEAD + BLOCK));
        assertThat(held(Lisa.State.RESET_ALL)).allMatch(elements -> elements == 2 * (EMBED + HEAD + BLOCK));
        List<Long> kept = held(Lisa.State.KEEP);
        assertThat(kept.get(kept.size() - 1)).isEqualTo(2 * (EMBED + HEAD + 2 * BLOCK));
    }

    private static List<Long> held(Lisa.State state) {
        Setup setup = new Setup();
        List<Long> held = new ArrayList<>();
        setup.train(config(9).build(), setup.sampling(1, 2, state, LisaTest::inTurn), new Callback() {
            @Override
            public void afterStep(StepContext step) {
                held.add(step.run().optimizer().stateBytes() / 4);
            }
        });
        return held;
    }

    @Test
    void aResumedRunGoesOnToTheSameBits(@TempDir Path folder) {
        Lisa.Draw draw = Lisa.uniform(new Seed(9), 2, 1);
        Setup whole = new Setup();
        whole.train(config(11).build(), whole.sampling(1, 3, Lisa.State.RESET, draw));
        Setup first = new Setup();
        Trainer[] running = new Trainer[1];
        Callback stop = new Callback() {
            @Override
            public void afterStep(StepContext step) {
                if (step.step() == 5) {
                    running[0].requestStop();
                }
            }
        };
        for (boolean resume : new boolean[] {false, true}) {
            Setup setup = resume ? new Setup() : first;
            try (Trainer trainer = TinyTask.trainer(
                            setup.net, setup.adapter, setup.model, config(11).build())
                    .callback(setup.sampling(1, 3, Lisa.State.RESET, draw))
                    .callback(stop)
                    .out(folder.resolve("run"))
                    .resume(resume)
                    .build()) {
                running[0] = trainer;
                trainer.train();
            }
            if (resume) {
                same(setup.values(), whole.values());
            }
        }
    }

    @Test
    @Card(
            value = "lisa",
            checks = {8})
    void itLearnsMoreThanWithoutBlocksAndLessThanAllOfThem() {
        double[] losses = new double[3];
        for (int gamma = 0; gamma <= 2; gamma++) {
            for (int seed = 0; seed < 3; seed++) {
                Setup setup = new Setup();
                Map<String, Tensor> start = setup.values();
                setup.train(
                        config(40).seed(seed).build(),
                        setup.sampling(gamma, 5, Lisa.State.RESET, Lisa.uniform(new Seed(seed), 2, gamma)));
                losses[gamma] += loss(setup).item();
                if (gamma == 1) { // one block moves in an interval, both do over the run
                    assertThat(setup.values().entrySet())
                            .noneMatch(e -> e.getValue().equal(start.get(e.getKey())));
                }
            }
        }
        assertThat(losses[1]).isLessThan(losses[0]);
        assertThat(losses[2]).isLessThan(losses[1]);
    }

    @Test
    void itWorksOnWholeWeightsOnly() {
        assertThat(new Lisa().objection(new Full())).isNull();
        assertThatThrownBy(() -> Catalog.checkCombination(List.of(new Lisa(), Catalog.method("lora"))))
                .isInstanceOf(EspalierException.class)
                .hasMessage(
                        "lisa and lora cannot be combined: LISA trains whole blocks of the network, and lora leaves them as they are; use the adapter full, or no sampler");
    }

    /** A recipe's lora-sb is an adapter and a start for it; the weights that LISA would draw from do not train. */
    @Test
    void itIsRefusedBesideLoraSb() {
        AdapterSpec<?> spec = AdapterSpec.read(Fields.of("adapter", Map.of("type", "lora-sb", "r", 2)));
        assertThat(Objects.requireNonNull(spec.initializer()).name()).isEqualTo("lora-sb");
        assertThatThrownBy(() -> Catalog.checkCombination(List.of(new Lisa(), spec.type(), spec.initializer())))
                .isInstanceOf(EspalierException.class)
                .hasMessage(
                        "lisa and lora-xs cannot be combined: LISA trains whole blocks of the network, and lora-xs leaves them as they are; use the adapter full, or no sampler");
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> new Lisa.Config(-1, 20, Lisa.State.RESET))
                .hasMessage("lisa_activated_layers must be at least 0, found -1; try 2");
        assertThatThrownBy(() -> new Lisa.Config(1, 0, Lisa.State.RESET))
                .hasMessage("lisa_interval_steps must be at least 1, found 0; try 20");
    }
}
