package dev.espalier.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TrainerTest {

    private static final ProgressListener QUIET = progress -> {};

    @TempDir
    Path temp;

    private static TrainConfig.Builder config() {
        return TrainConfig.builder().batchSize(4).learningRate(0.05).logEvery(1);
    }

    private static Trainer.Builder trainer(Toy toy, TrainConfig config) {
        return Trainer.builder(toy, Toy.data(config.batchSize(), 24))
                .parameters(toy.trainable())
                .config(config)
                .progress(QUIET);
    }

    @Test
    void theLossFallsAndOnlyWhatTrainsMoves() {
        try (Toy toy = new Toy(0)) {
            List<Integer> table = toy.bits().get("embed.weight");
            try (Trainer trainer = trainer(
                            toy, config().learningRate(0.1).epochs(40).build())
                    .validation(Toy.data(4, 24))
                    .build()) {
                TrainResult result = trainer.train();
                assertThat(result.status()).isEqualTo(TrainResult.Status.COMPLETED);
                assertThat(result.steps()).isEqualTo(240);
                assertThat(result.metrics().get("loss")).isLessThan(0.1);
                assertThat(result.message()).isEqualTo("completed 240 steps");
                assertThat(toy.isTraining()).isFalse();
            }
            assertThat(toy.bits().get("embed.weight")).isEqualTo(table);
            toy.trainable().values().forEach(p -> assertThat(p.tensor().grad()).isNull());
        }
    }

    @Test
    void eventsComeInOrder() {
        List<String> events = new ArrayList<>();
        Callback callback = new Callback() {
            @Override
            public void beforeTraining(TrainingRun run, long stepsDone) {
                events.add("before " + stepsDone + "/" + run.totalSteps());
            }

            @Override
            public void afterBackward(StepContext step) {
                Parameter p = step.run().parameters().get("out.bias");
                try (Scope scope = Scope.open()) {
                    events.add("backward " + step.step() + " gradient "
                            + (p.tensor().grad() != null));
                }
            }

            @Override
            public void afterStep(StepContext step) {
                Parameter p = step.run().parameters().get("out.bias");
                events.add("step " + step.step() + " gradient " + (p.tensor().grad() != null));
            }

            @Override
            public void afterEvaluation(TrainingRun run, long step, Map<String, Double> metrics) {
                events.add("evaluation " + step + " " + metrics.keySet());
            }

            @Override
            public void afterTraining(TrainingRun run) {
                events.add("after");
            }
        };
        try (Toy toy = new Toy(0);
                Trainer trainer = trainer(toy, config().steps(3).evalEvery(2).build())
                        .callback(callback)
                        .validation(Toy.data(4, 8))
                        .build()) {
            trainer.train();
        }
        assertThat(events)
                .containsExactly(
                        "before 0/3",
                        "backward 1 gradient true",
                        "step 1 gradient false",
                        "backward 2 gradient true",
                        "step 2 gradient false",
                        "evaluation 2 [loss]",
                        "backward 3 gradient true",
                        "step 3 gradient false",
                        "evaluation 3 [loss]",
                        "after");
    }

    @Test
    void anEpochsLastStepMayHaveFewerBatches() {
        // 24 examples in batches of 4 are 6; four a step makes steps of 4 and 2
        List<Integer> micro = new ArrayList<>();
        try (Toy toy = new Toy(0);
                Trainer trainer = trainer(
                                toy, config().epochs(2).accumulation(4).build())
                        .callback(new Callback() {
                            @Override
                            public void afterStep(StepContext step) {
                                micro.add(step.microStep() + 1);
                            }
                        })
                        .build()) {
            assertThat(trainer.train().steps()).isEqualTo(4);
        }
        assertThat(micro).containsExactly(4, 2, 4, 2);
    }

    @Test
    void theSeedDecidesDropoutAndEachBatchDrawsItsOwn() {
        List<Map<String, List<Integer>>> ends = new ArrayList<>();
        List<float[]> masks = new ArrayList<>();
        for (long seed : new long[] {1, 1, 2}) {
            try (Toy toy = new Toy(0.5);
                    Trainer trainer = trainer(
                                    toy,
                                    config().steps(4).accumulation(2).seed(seed).build())
                            .lossTerm((step, outcome) -> {
                                Tensor ones = Tensor.ones(DType.FLOAT32, 64);
                                masks.add(toy.dropout.forward(ones).floats());
                                return ones.sum().mul(0);
                            })
                            .build()) {
                trainer.train();
                ends.add(toy.bits());
            }
        }
        assertThat(ends.get(1)).isEqualTo(ends.get(0));
        assertThat(ends.get(2)).isNotEqualTo(ends.get(0));
        assertThat(masks.subList(0, 8).stream().map(Arrays::toString).distinct())
                .hasSize(8);
        assertThat(masks.subList(0, 8).stream().map(Arrays::toString).toList())
                .isEqualTo(masks.subList(8, 16).stream().map(Arrays::toString).toList());
    }

    @Test
    void lossTermsAreMeansOverTheStep() {
        // The term's gradient is 1 for out.bias whatever the number of batches; the task's share is taken away.
        List<float[]> gradients = new ArrayList<>();
        for (boolean withTerm : new boolean[] {false, true}) {
            try (Toy toy = new Toy(0)) {
                Trainer.Builder builder = trainer(
                                toy, config().steps(1).accumulation(3).clip(0).build())
                        .callback(new Callback() {
                            @Override
                            public void afterBackward(StepContext step) {
                                gradients.add(
                                        toy.out.biasParameter().tensor().grad().floats());
                            }
                        });
                if (withTerm) {
                    builder.lossTerm(
                            (step, outcome) -> toy.out.biasParameter().tensor().sum());
                }
                try (Trainer trainer = builder.build()) {
                    trainer.train();
                }
            }
        }
        for (int i = 0; i < Toy.CLASSES; i++) {
            assertThat(gradients.get(1)[i] - gradients.get(0)[i]).isEqualTo(1, within(1e-6f));
        }
    }

    @Test
    void aLossThatIsNotFiniteNamesStepAndSources() {
        try (Toy toy = new Toy(0);
                Trainer trainer = trainer(toy, config().steps(5).batchSize(2).build())
                        .lossTerm((step, outcome) -> Tensor.scalar(step.step() == 2 ? Double.NaN : 0, DType.FLOAT32))
                        .out(temp.resolve("run"))
                        .build()) {
            assertThatThrownBy(trainer::train)
                    .isInstanceOf(EspalierException.class)
                    .hasMessageMatching(
                            "the loss is NaN at step 2, on toy.csv:\\d+, toy.csv:\\d+; lower the learning rate"
                                    + " \\(0.0400\\), or look for broken examples there");
        }
        Map<String, Object> record = Json.read(temp.resolve("run/run.json"));
        assertThat(record).containsEntry("status", "failed").containsEntry("steps", 1L);
        assertThat(record.get("message").toString()).startsWith("the loss is NaN at step 2");
    }

    @Test
    void aGradientThatIsNotFiniteNamesStepAndSources() {
        try (Toy toy = new Toy(0);
                Trainer trainer = trainer(toy, config().steps(5).build())
                        // finite, with an infinite slope at zero
                        .lossTerm((step, outcome) ->
                                toy.out.biasParameter().tensor().mul(0).sqrt().sum())
                        .build()) {
            assertThatThrownBy(trainer::train)
                    .hasMessageStartingWith("the gradient is not finite at step 1, on toy.csv:");
        }
    }

    @Test
    void clippingGivesTorchsNumbers() {
        // Expected numbers: torch's clip_grad_norm_, by tools/golden/make_optim_fixtures.py
        Object cases = Json.read(Path.of("src/test/resources/golden/optim.json").toAbsolutePath())
                .get("clip");
        for (Object c : (List<?>) cases) {
            Map<?, ?> golden = (Map<?, ?>) c;
            try (Scope scope = Scope.open()) {
                List<Parameter> parameters = new ArrayList<>();
                for (Object gradient : (List<?>) golden.get("gradients")) {
                    double[] g = numbers(gradient);
                    Parameter p = new Parameter(Tensor.zeros(DType.FLOAT32, g.length));
                    p.trainable(true);
                    p.tensor().mul(Tensor.of(g).to(DType.FLOAT32)).sum().backward();
                    parameters.add(p);
                }
                double norm = Parameters.normAndClip(parameters, (double) golden.get("max_norm"));
                assertThat(norm).isEqualTo((double) golden.get("norm"), within(1e-6));
                for (int i = 0; i < parameters.size(); i++) {
                    assertThat(parameters.get(i).tensor().grad().doubles())
                            .containsExactly(numbers(((List<?>) golden.get("clipped")).get(i)), within(1e-7));
                    parameters.get(i).tensor().close();
                }
            }
        }
    }

    @Test
    void patienceStopsEarlyAndPutsTheBestBack() {
        List<Map<String, List<Integer>>> states = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        try (Toy toy = new Toy(0);
                Trainer trainer = trainer(
                                toy,
                                config().steps(200)
                                        .learningRate(3) // far too fast: it soon gets worse
                                        .optimizer(Sgd.Config.DEFAULT)
                                        .schedule(Schedule.of(Schedule.Curve.CONSTANT))
                                        .clip(0)
                                        .evalEvery(1)
                                        .patience(3)
                                        .build())
                        .validation(Toy.data(4, 24))
                        .out(temp.resolve("run"))
                        .callback(new Callback() {
                            @Override
                            public void afterEvaluation(TrainingRun run, long step, Map<String, Double> metrics) {
                                states.add(toy.bits());
                                losses.add(metrics.get("loss"));
                            }
                        })
                        .build()) {
            TrainResult result = trainer.train();
            assertThat(result.status()).isEqualTo(TrainResult.Status.EARLY_STOPPED);
            int best = losses.indexOf(losses.stream().min(Double::compare).orElseThrow());
            assertThat(losses).hasSize(best + 4);
            assertThat(result.bestStep()).isEqualTo(best + 1);
            assertThat(result.metrics().get("loss")).isEqualTo(losses.get(best));
            assertThat(toy.bits()).isEqualTo(states.get(best));
            assertThat(result.message())
                    .isEqualTo(
                            "stopped early after step %d of 200: 3 evaluations brought nothing better; the state of step %d"
                                    + " is kept",
                            losses.size(), best + 1);
        }
    }

    @Test
    void metricsAndRecordTellTheRun() throws IOException {
        Path run = temp.resolve("run");
        try (Toy toy = new Toy(0);
                Trainer trainer = trainer(
                                toy, config().steps(4).logEvery(2).seed(5).build())
                        .validation(Toy.data(4, 8))
                        .out(run)
                        .recipe(Map.of("model", "toy"))
                        .hashes(Map.of("data", "abc"))
                        .build()) {
            trainer.train();
            long elements = 8 * 16 + 16 + 16 * 3 + 3;
            assertThat(trainer.memory()).isEqualTo(new Trainer.Memory(4 * elements, 4 * elements, 8 * elements));
            Map<String, Object> record = Json.read(run.resolve("run.json"));
            assertThat(record)
                    .containsEntry("status", "completed")
                    .containsEntry("recipe", Map.of("model", "toy"))
                    .containsEntry("hashes", Map.of("data", "abc"))
                    .containsEntry("seed", 5L)
                    .containsEntry("steps", 4L)
                    .containsEntry("trainable_parameters", elements)
                    .containsEntry("optimizer_bytes", 8 * elements)
                    .containsKeys("versions", "tokens_per_second", "train_loss", "metrics", "started", "seconds");
            assertThat((long) record.get("peak_resident_bytes")).isGreaterThan(10L << 20);
        }
        List<String> lines = Files.readAllLines(run.resolve("metrics.jsonl"));
        assertThat(lines).hasSize(3);
        assertThat(Json.parse("line 1", lines.get(0)))
                .containsEntry("step", 2L)
                .containsEntry("learning_rate", 0.05 * 0.75)
                .containsEntry("epoch", 2 / 6.0)
                .containsKeys("loss", "grad_norm", "tokens", "tokens_per_second", "resident_bytes");
        assertThat(Json.parse("line 3", lines.get(2))).containsEntry("step", 4L).containsKey("eval_loss");
    }

    @Test
    void partsThatDoNotGoTogetherAreRefused() {
        try (Toy toy = new Toy(0)) {
            assertThatThrownBy(() -> Trainer.builder(toy, Toy.data(4, 8)).build())
                    .hasMessage("there is nothing to train: no parameter was given; attach an adapter or train a head");
            assertThatThrownBy(() -> trainer(toy, config().patience(2).build()).build())
                    .hasMessage(
                            "patience 2 needs validation data to judge by and an output folder for the best state; give"
                                    + " both, or 0");
            assertThatThrownBy(() ->
                            trainer(toy, config().checkpointEvery(2).build()).build())
                    .hasMessage("checkpointEvery 2 needs an output folder; give one, or 0");
            toy.embed.weightParameter().trainable(true);
            assertThatThrownBy(() -> trainer(toy, config().build()).build())
                    .hasMessage("the model's parameter embed.weight gathers gradients but is not among those to train;"
                            + " freeze it, or train it too");
        }
        assertThatThrownBy(() -> config().epochs(0).build())
                .hasMessage("give either epochs or steps, at least 1, found epochs 0 and steps 0; try epochs 3");
        assertThatThrownBy(() -> config().learningRate(Double.NaN).build())
                .hasMessage("learningRate must be above 0 and finite, found NaN; try 2e-4");
        assertThatThrownBy(() -> config().accumulation(0).build())
                .hasMessage("accumulation must be at least 1, found 0; try 1");
        assertThatThrownBy(() -> config().clip(-1).build())
                .hasMessage("clip must be above 0, or 0 for none, found -1.0; try 1");
    }

    @Test
    void aFullDiskIsSaidInOneSentence() {
        Path full = Path.of("/dev/full");
        assumeTrue(Files.exists(full), "only Linux has a device that is always full");
        try (MetricsLog log = new MetricsLog(full, 0)) {
            assertThatThrownBy(() -> log.append(Map.of("step", 1)))
                    .isInstanceOf(EspalierException.class)
                    .hasMessageStartingWith("The disk is full: /dev/full was not written");
        }
    }

    /** In a process whose heap is all there from the start, so that what grows is native. */
    @Test
    void aThousandStepsLeaveMemoryFlat() throws Exception {
        Process process = Fork.start(temp, "-Xms48m -Xmx48m -XX:+AlwaysPreTouch", MemoryMain.class);
        List<String> lines = process.inputReader().lines().toList();
        assertThat(process.waitFor()).as(String.join("\n", lines)).isZero();
        long[] early = longs(lines.get(0)); // native objects, resident bytes
        long[] late = longs(lines.get(1));
        assertThat(late[0]).isEqualTo(early[0]);
        assertThat(late[1] - early[1]).isLessThan(4L << 20);
    }

    private static long[] longs(String line) {
        return Arrays.stream(line.split(" ")).mapToLong(Long::parseLong).toArray();
    }

    private static double[] numbers(Object list) {
        return ((List<?>) list)
                .stream().mapToDouble(v -> ((Number) v).doubleValue()).toArray();
    }
}
