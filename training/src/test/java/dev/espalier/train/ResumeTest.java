package dev.espalier.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ResumeTest {

    @TempDir
    Path temp;

    private static TrainConfig.Builder config() {
        return TrainConfig.builder()
                .batchSize(2)
                .steps(10)
                .accumulation(3)
                .learningRate(0.02)
                .optimizer(new AdamW.Config(0.9, 0.999, 1e-8, 0.01))
                .checkpointEvery(2)
                .logEvery(3);
    }

    private static Trainer.Builder trainer(Toy toy, TrainConfig config, Path out) {
        return KillMain.trainer(toy, config).out(out);
    }

    /** Bits of the parameters at the end of an undisturbed run, and the lines of its metrics. */
    private record End(Map<String, List<Integer>> bits, List<Map<String, Object>> metrics) {}

    private End undisturbed(TrainConfig config) throws IOException {
        Path out = temp.resolve("undisturbed");
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config, out).build()) {
            trainer.train();
            return new End(toy.bits(), metrics(out));
        }
    }

    private static List<Map<String, Object>> metrics(Path out) throws IOException {
        List<Map<String, Object>> lines = new ArrayList<>();
        for (String line : Files.readAllLines(out.resolve("metrics.jsonl"))) {
            Map<String, Object> values = Json.parse("metrics", line);
            values.keySet().removeAll(List.of("tokens_per_second", "resident_bytes")); // of the process, not the run
            lines.add(values);
        }
        return lines;
    }

    @Test
    void tenStepsAreFiveAndFiveMore() throws IOException {
        End expected = undisturbed(config().build());
        Path out = temp.resolve("stopped");
        try (Toy toy = new Toy(0.3)) {
            Trainer[] trainer = new Trainer[1];
            trainer[0] = trainer(toy, config().build(), out)
                    .callback(new Callback() {
                        @Override
                        public void afterStep(StepContext step) {
                            if (step.step() == 5) {
                                trainer[0].requestStop();
                            }
                        }
                    })
                    .build();
            try (Trainer running = trainer[0]) {
                TrainResult result = running.train();
                assertThat(result.status()).isEqualTo(TrainResult.Status.INTERRUPTED);
                assertThat(result.message())
                        .isEqualTo("stopped after step 5 of 10; the checkpoint is %s: resume the run in %s to go on"
                                .formatted(out.resolve("checkpoints/step-00000005"), out));
                assertThat(Json.read(out.resolve("run.json"))).containsEntry("status", "interrupted");
            }
        }
        try (Toy toy = new Toy(0.3);
                Trainer trainer =
                        trainer(toy, config().build(), out).resume(true).build()) {
            TrainResult result = trainer.train();
            assertThat(result.status()).isEqualTo(TrainResult.Status.COMPLETED);
            assertThat(result.steps()).isEqualTo(10);
            assertThat(toy.bits()).isEqualTo(expected.bits());
        }
        assertThat(metrics(out)).isEqualTo(expected.metrics());
    }

    @Test
    void linesAfterTheCheckpointAreWrittenAgain() throws IOException {
        End expected = undisturbed(config().logEvery(1).build());
        Path out = temp.resolve("failed");
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config().logEvery(1).build(), out)
                        .callback(new Callback() {
                            @Override
                            public void afterBackward(StepContext step) {
                                if (step.step() == 8) { // the last checkpoint is that of step 6
                                    throw new IllegalStateException("as if the power went");
                                }
                            }
                        })
                        .build()) {
            assertThatThrownBy(trainer::train).isInstanceOf(IllegalStateException.class);
            assertThat(metrics(out)).hasSize(8); // seven steps, and the evaluation after the epoch of four
        }
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config().logEvery(1).build(), out)
                        .resume(true)
                        .build()) {
            trainer.train();
            assertThat(toy.bits()).isEqualTo(expected.bits());
        }
        assertThat(metrics(out)).isEqualTo(expected.metrics());
    }

    @Test
    void aFinishedRunResumedIsFinished() throws IOException {
        TrainConfig config = config().steps(60)
                .evalEvery(1)
                .patience(2)
                .learningRate(2)
                .clip(0)
                .build();
        End expected = undisturbed(config);
        Path out = temp.resolve("undisturbed");
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config, out).resume(true).build()) {
            TrainResult result = trainer.train();
            assertThat(result.status()).isEqualTo(TrainResult.Status.EARLY_STOPPED);
            assertThat(result.bestStep()).isNotNull();
            assertThat(toy.bits()).isEqualTo(expected.bits());
        }
    }

    @Test
    void callbacksRememberToo() {
        Path out = temp.resolve("run");
        class Counter implements Callback {
            double steps;

            @Override
            public void afterStep(StepContext step) {
                steps++;
            }

            @Override
            public Map<String, Tensor> state() {
                return Map.of("steps", Tensor.scalar(steps, DType.FLOAT64));
            }

            @Override
            public void load(TrainingRun run, Map<String, Tensor> state) {
                steps = state.get("steps").item();
            }
        }
        for (long steps : new long[] {4, 4}) {
            Counter counter = new Counter();
            try (Toy toy = new Toy(0.3);
                    Trainer trainer = trainer(toy, config().steps(steps).build(), out)
                            .callback(counter)
                            .resume(Files.exists(out))
                            .build()) {
                trainer.train();
            }
            assertThat(counter.steps).isEqualTo(4);
        }
    }

    @Test
    void onlyTheNewestCheckpointsAreKept() throws IOException {
        Path out = temp.resolve("run");
        try (Toy toy = new Toy(0.3);
                Trainer trainer =
                        trainer(toy, config().keepCheckpoints(2).build(), out).build()) {
            trainer.train();
        }
        try (Stream<Path> entries = Files.list(out.resolve("checkpoints"))) {
            assertThat(entries.map(p -> p.getFileName().toString()))
                    .containsExactlyInAnyOrder("step-00000008", "step-00000010");
        }
    }

    @Test
    void aFolderInUseIsRefused() throws IOException {
        Path out = Files.createDirectories(temp.resolve("run"));
        Files.writeString(out.resolve("notes.txt"), "mine");
        try (Toy toy = new Toy(0.3)) {
            try (Trainer trainer = trainer(toy, config().build(), out).build()) {
                assertThatThrownBy(trainer::train)
                        .isInstanceOf(EspalierException.class)
                        .hasMessage("the output folder %s is not empty; choose another, or resume the run in it", out);
            }
            try (Trainer trainer =
                    trainer(toy, config().build(), out).resume(true).build()) {
                assertThatThrownBy(trainer::train)
                        .hasMessage(
                                "there is no run to resume in %s: it holds no run.json; check the path, or start without"
                                        + " resume",
                                out);
            }
        }
        try (Stream<Path> entries = Files.list(out)) {
            assertThat(entries).hasSize(1);
        }
    }

    @Test
    void otherSettingsOrDataAreRefused() {
        Path out = temp.resolve("run");
        try (Toy toy = new Toy(0.3)) {
            try (Trainer trainer = trainer(toy, config().build(), out)
                    .hashes(Map.of("data", "abc"))
                    .build()) {
                trainer.train();
            }
            Path checkpoint = out.resolve("checkpoints/step-00000010");
            try (Trainer trainer = trainer(toy, config().learningRate(0.01).build(), out)
                    .hashes(Map.of("data", "abc"))
                    .resume(true)
                    .build()) {
                assertThatThrownBy(trainer::train)
                        .hasMessage(
                                "the run in %s was started with learningRate 0.02, and now it is 0.01; resume with the same"
                                        + " settings and data, or start a new run in another folder",
                                checkpoint);
            }
            try (Trainer trainer = trainer(toy, config().build(), out)
                    .hashes(Map.of("data", "abd"))
                    .resume(true)
                    .build()) {
                assertThatThrownBy(trainer::train)
                        .hasMessageContaining("was started with hash of data abc, and now it is abd;");
            }
        }
    }

    @Test
    void aDamagedCheckpointIsRefusedAndTheOneBeforeItServes() throws IOException {
        End expected = undisturbed(config().keepCheckpoints(2).build());
        Path out = temp.resolve("undisturbed");
        Path newest = out.resolve("checkpoints/step-00000010");
        Path tensors = newest.resolve("training.safetensors");
        byte[] bytes = Files.readAllBytes(tensors);
        bytes[bytes.length - 1] ^= 1;
        Files.write(tensors, bytes);
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config().keepCheckpoints(2).build(), out)
                        .resume(true)
                        .build()) {
            assertThatThrownBy(trainer::train)
                    .hasMessageMatching(
                            "the checkpoint .*step-00000010 is damaged: the sha256 of training.safetensors is"
                                    + " [0-9a-f]{64}, expected [0-9a-f]{64}; delete the folder, and the run goes on from the one"
                                    + " before it or from the start");
        }
        Files.delete(tensors);
        Files.delete(newest.resolve("state.json"));
        Files.delete(newest);
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config().keepCheckpoints(2).build(), out)
                        .resume(true)
                        .build()) {
            trainer.train();
            assertThat(toy.bits()).isEqualTo(expected.bits());
        }
        assertThat(metrics(out)).isEqualTo(expected.metrics());
    }

    @Test
    void killedAtTenRandomMomentsItEndsInTheSameBits() throws Exception {
        End expected = undisturbed(KillMain.config());
        Path out = temp.resolve("killed");
        long seed = System.nanoTime();
        Random random = new Random(seed);
        for (int kill = 0; kill < 10; kill++) {
            Process process = Fork.start(temp, "-Xmx64m", KillMain.class, out.toString());
            try (BufferedReader lines = process.inputReader()) {
                String first = lines.readLine();
                assertThat(first)
                        .as("kill %d of seed %d: see the errors", kill, seed)
                        .startsWith("training");
                Thread.sleep(random.nextInt(120)); // some ten steps, each with a checkpoint
                process.destroyForcibly();
                assertThat(process.waitFor(20, TimeUnit.SECONDS)).isTrue();
            }
        }
        try (Toy toy = new Toy(0.3);
                Trainer trainer =
                        trainer(toy, KillMain.config(), out).resume(true).build()) {
            assertThat(trainer.train().steps()).isEqualTo(KillMain.STEPS);
            assertThat(toy.bits()).as("seed %d", seed).isEqualTo(expected.bits());
        }
        assertThat(metrics(out)).as("seed %d", seed).isEqualTo(expected.metrics());
        try (Stream<Path> entries = Files.list(out.resolve("checkpoints"))) {
            assertThat(entries.map(p -> p.getFileName().toString()))
                    .containsExactlyInAnyOrder("step-%08d".formatted(KillMain.STEPS), "best.safetensors");
        }
    }
}
