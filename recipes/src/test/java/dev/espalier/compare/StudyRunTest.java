package dev.espalier.compare;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.EspalierException;
import dev.espalier.compare.MethodResult.Edge;
import dev.espalier.compare.RunResult.Measured;
import dev.espalier.io.Json;
import dev.espalier.recipe.Yaml;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A study whose processes are played by {@link FakeRunner}. */
class StudyRunTest {

    @TempDir
    private Path folder;

    private Path out;
    private final FakeRunner runner = new FakeRunner();
    private final List<String> notes = new ArrayList<>();
    private final List<StudyProgress.State> states = new ArrayList<>();

    private final StudyProgress progress = new StudyProgress() {
        @Override
        public void update(State state) {
            states.add(state);
        }

        @Override
        public void note(String remark) {
            notes.add(remark);
        }
    };

    @BeforeEach
    void data() throws Exception {
        out = folder.resolve("out");
        StringBuilder train = new StringBuilder("text,label\n");
        for (int i = 0; i < 20; i++) {
            train.append("t").append(i).append(i % 2 == 0 ? ",yes\n" : ",no\n");
        }
        Files.writeString(folder.resolve("train.csv"), train.toString());
        Files.writeString(folder.resolve("test.csv"), "text,label\na,yes\nb,no\nc,yes\nd,no\n");
    }

    private Study study(String... settings) {
        String text = """
                model: minilm
                task: {type: classification, train: %1$s/train.csv, test: %1$s/test.csv}
                methods: [lora, dora]
                seeds: [0, 1]
                equal: {steps: 12}
                learningRates: [1.0e-3, 2.0e-3, 4.0e-3]
                memory: 1 GiB
                """.formatted(folder);
        return Study.of("study.yaml", Yaml.with(Yaml.parse("study.yaml", text), Arrays.asList(settings)));
    }

    private StudyResult run(boolean resume, String... settings) {
        return new StudyRun(study(settings), out, runner).run(resume, progress);
    }

    @Test
    void figuresAreThoseOfEachRunsRecord() {
        StudyResult result = run(false);
        for (MethodResult row : result.methods()) {
            assertThat(row.runs()).hasSize(2);
            for (RunResult one : row.runs()) {
                Map<String, Object> record = Json.read(out.resolve(one.folder()).resolve("run.json"));
                Measured m = one.measured();
                assertThat(m.steps()).isEqualTo(record.get("steps"));
                assertThat(m.tokens()).isEqualTo(record.get("tokens"));
                assertThat(m.tokensPerSecond()).isEqualTo(record.get("tokens_per_second"));
                assertThat(m.seconds()).isEqualTo(record.get("seconds"));
                assertThat(m.processorSeconds()).isEqualTo(record.get("processor_seconds"));
                assertThat(m.peakResidentBytes()).isEqualTo(record.get("peak_resident_bytes"));
                assertThat(m.optimizerBytes()).isEqualTo(record.get("optimizer_bytes"));
                assertThat(m.trainableParameters()).isEqualTo(record.get("trainable_parameters"));
                assertThat(m.curve()).containsExactly(new RunResult.Point(1, 2.5), new RunResult.Point(2, 1.5));
            }
            assertThat(row.runs().get(0).measured().layers()).hasSize(1);
            assertThat(row.runs().get(1).measured().layers()).isEmpty();
        }
        assertThat(Json.text(StudyResult.read(out.resolve("results.json")).json()))
                .isEqualTo(Json.text(result.json()));
    }

    @Test
    void theBestRateOnValidationDataIsChosenByTheFirstSeed() {
        MethodResult lora = run(false).method("lora");
        assertThat(lora.learningRate()).isEqualTo(0.002);
        assertThat(lora.edge()).isEqualTo(Edge.NONE);
        assertThat(lora.rates()).extracting(MethodResult.Rate::learningRate).containsExactly(1e-3, 2e-3, 4e-3);
        assertThat(runner.done.stream().filter(d -> d.startsWith("train lora/")))
                .hasSize(3 + 1);
        assertThat(runner.done.stream().filter(d -> d.startsWith("measure lora/")))
                .hasSize(2);
        assertThat(states.get(states.size() - 1))
                .isEqualTo(new StudyProgress.State(
                        14, 14, List.of(), states.get(states.size() - 1).left()));
    }

    @Test
    void aRateAtTheGridsEndIsFlagged() {
        assertThat(run(false, "learningRates=[1.0e-4, 1.0e-3]").method("dora").edge())
                .isEqualTo(Edge.HIGHEST);
    }

    @Test
    void rowsAreComparedSeedBySeedAndExampleByExample() {
        StudyResult result = run(false);
        assertThat(result.reference().summary().difference()).isNull();
        MethodResult.Difference difference = result.method("dora").summary().difference();
        assertThat(difference.mean()).isCloseTo(-0.25, within(1e-12)); // one of four examples, on both seeds
        assertThat(difference.pairs()).isEqualTo(2);
        assertThat(result.method("lora").summary().metric()).isCloseTo(0.625, within(1e-12)); // 3/4 and 2/4
        assertThat(result.method("lora").summary().standardError()).isCloseTo(0.125, within(1e-12));
    }

    @Test
    void resumingDoesOnlyWhatIsMissingOrBroken() throws Exception {
        StudyResult first = run(false);
        Path lora = out.resolve("runs/lora/lr-0.002/seed-0");
        Path dora = out.resolve("runs/dora/lr-0.002/seed-1");
        Files.delete(lora.resolve("measure.json"));
        Files.writeString(dora.resolve("train.json"), "{\"validation\": {\"accu");
        Map<Path, String> before = FakeRunner.files(out.resolve("runs"));
        runner.done.clear();
        StudyResult second = run(true);
        assertThat(runner.done)
                .containsExactlyInAnyOrder(
                        "measure lora/lr-0.002/seed-0", "train dora/lr-0.002/seed-1", "measure dora/lr-0.002/seed-1");
        Map<Path, String> after = FakeRunner.files(out.resolve("runs"));
        before.forEach((file, content) -> {
            if (!file.startsWith(lora) && !file.startsWith(dora)) {
                assertThat(after).containsEntry(file, content);
            }
        });
        assertThat(second.methods()).isEqualTo(first.methods());
        runner.done.clear();
        run(true);
        assertThat(runner.done).isEmpty();
    }

    @Test
    void whatIsAskedDifferentlyNowIsDoneAgain() {
        run(false);
        runner.done.clear();
        run(true, "seeds=[0, 1, 2]");
        assertThat(runner.done)
                .containsExactlyInAnyOrder(
                        "train lora/lr-0.002/seed-2",
                        "measure lora/lr-0.002/seed-2",
                        "train dora/lr-0.002/seed-2",
                        "measure dora/lr-0.002/seed-2");
        runner.done.clear();
        run(true, "equal.steps=13");
        assertThat(runner.done.stream().filter(d -> d.startsWith("train"))).hasSize(8);
    }

    @Test
    void aFailureIsARowThatSaysSoAndIsTriedAgain() {
        runner.failure = name -> name.equals("train dora/lr-0.002/seed-1") ? "the process was killed (137)" : null;
        StudyResult result = run(false);
        RunResult failed = result.method("dora").runs().get(1);
        assertThat(failed.status()).isEqualTo(RunResult.Status.FAILED);
        assertThat(failed.failure()).isEqualTo("the process was killed (137)");
        assertThat(result.method("dora").summary().runs()).isEqualTo(1);
        assertThat(result.method("dora").summary().difference().pairs()).isEqualTo(1);
        runner.failure = name -> null;
        runner.done.clear();
        assertThat(run(true).method("dora").summary().runs()).isEqualTo(2);
        assertThat(runner.done).containsExactlyInAnyOrder("train dora/lr-0.002/seed-1", "measure dora/lr-0.002/seed-1");
    }

    @Test
    void aRateThatFailsIsNotChosen() {
        runner.failure = name -> name.equals("train dora/lr-0.002/seed-0") ? "the loss became NaN" : null;
        MethodResult dora = run(false).method("dora");
        assertThat(dora.learningRate()).isEqualTo(1e-3);
        assertThat(dora.rates().get(1).failure()).isEqualTo("the loss became NaN");
        assertThat(dora.edge()).isEqualTo(Edge.LOWEST);
    }

    @Test
    void aMethodThatDoesNotFitIsSaidBeforeAnythingTrains() {
        runner.failure = name -> name.startsWith("plan") && name.contains("dora") ? "r is larger than the layer" : null;
        StudyResult result = run(false);
        assertThat(notes).containsExactly("dora takes no part: r is larger than the layer");
        assertThat(result.method("dora").succeeded()).isFalse();
        assertThat(result.method("dora").runs()).allMatch(r -> "r is larger than the layer".equals(r.failure()));
        runner.failure = name -> name.startsWith("plan") ? "no such model" : null;
        out = folder.resolve("other");
        assertThatThrownBy(() -> run(false)).hasMessage("the reference lora cannot take part: no such model");
    }

    @Test
    void anImpossibleBudgetIsRefusedBeforeAnythingTrains() {
        runner.forecast = 600L << 20;
        assertThatThrownBy(() -> run(false, "memory=500 MiB"))
                .isInstanceOf(EspalierException.class)
                .hasMessage(
                        "the memory budget is 500 MiB, and lora needs 600 MiB, dora needs 600 MiB; raise memory, lower"
                                + " train.batch or task.maxLength, or leave them out");
        assertThat(runner.done).noneMatch(d -> d.startsWith("train"));
    }

    @Test
    void oneSeedIsAllowedAndSaid() {
        StudyResult result = run(false, "seeds=[7]");
        assertThat(notes)
                .containsExactly("one seed: no error can be given, and differences come from the test examples alone");
        assertThat(result.method("lora").summary().standardError()).isNull();
        assertThat(result.method("dora").summary().difference().resampled()).isEqualTo("test examples");
    }

    @Test
    void whatIsHeldEqualBecomesStepsOrRanks() {
        StudyResult tokens = run(false, "equal={tokens: 600}");
        assertThat(tokens.method("lora").held().how()).isEqualTo("train.steps = 12"); // 50 tokens a step
        assertThat(tokens.method("lora").held().reached()).isEqualTo(500.5); // of seeds 0 and 1
        out = folder.resolve("time");
        StudyResult time = run(false, "equal={time: 5}");
        assertThat(time.method("lora").held().how()).isEqualTo("train.steps = 20"); // ten took 2.5 s
        out = folder.resolve("parameters");
        StudyResult parameters = run(false, "equal={parameters: 900}", "train.epochs=1");
        assertThat(parameters.method("lora").held()).isEqualTo(new MethodResult.Held(900, 1000.0, "r = 3"));
        assertThat(parameters.method("lora").rank()).isEqualTo(3);
        assertThat(parameters.method("lora").command()).contains("--set adapter.r=3");
    }

    @Test
    void aRowsCommandRepeatsIt() {
        String command = run(false).method("dora").command();
        assertThat(command)
                .startsWith("espalier train dora --set model=minilm --set 'task={\"type\":\"classification\",")
                .contains(
                        "--set train.steps=12 --set train.learningRate=0.002 --set train.seed=0 --out out/dora-seed-0")
                .endsWith("&& espalier evaluate --adapter out/dora-seed-0 --data " + folder + "/test.csv");
    }

    @Test
    void aStoppedStudySaysHowToGoOnAndGoesOn() {
        AtomicReference<StudyRun> running = new AtomicReference<>();
        StudyRun study = new StudyRun(study(), out, runner);
        running.set(study);
        runner.failure = name -> {
            if (name.startsWith("measure")) {
                running.get().requestStop();
            }
            return null;
        };
        assertThatThrownBy(() -> study.run(false, progress))
                .isInstanceOf(EspalierException.class)
                .hasMessageMatching(
                        "the study was stopped after \\d+ of 14 processes; go on with the same command and --resume");
        assertThat(out.resolve("results.json")).doesNotExist();
        FakeRunner again = new FakeRunner();
        StudyResult result = new StudyRun(study(), out, again).run(true, progress);
        assertThat(result.methods()).allMatch(m -> m.summary().runs() == 2);
        assertThat(again.done).noneMatch(d -> d.startsWith("plan"));
    }

    @Test
    void aFolderThatHoldsSomethingIsLeftAlone() throws Exception {
        Files.createDirectories(out);
        Files.writeString(out.resolve("mine.txt"), "");
        assertThatThrownBy(() -> run(false)).hasMessageContaining("is not empty");
    }

    @Test
    void theCsvHasALineARun() throws Exception {
        StudyResult result = run(false);
        List<String> lines = Files.readAllLines(out.resolve("results.csv"));
        assertThat(lines).hasSize(1 + 4);
        assertThat(lines.get(0)).startsWith("row,method,kind,seed,status,failure,learning_rate,rank,metric");
        assertThat(lines.get(1)).startsWith("lora,lora,adapter,0,ok,,0.002,8,0.75,0.5,12,500,1000.5,2.5,");
        assertThat(ResultsCsv.text(result).lines()).containsExactlyElementsOf(lines);
        assertThat(ResultsCsv.text(SampleResults.make()))
                .contains("galore,galore,optimizer,1,failed,\"the process was killed (137), as the system does");
    }

    @Test
    void neitherSlotsNorMemoryAreExceeded() {
        Map<String, Long> bytes = new LinkedHashMap<>();
        int[] most = {0, 0};
        int[] now = {0, 0};
        Runner counting = new Runner() {
            @Override
            public String run(Job job, Path where) throws InterruptedException {
                int own = (int) (long) bytes.get(where.toString());
                synchronized (now) {
                    now[0]++;
                    now[1] += own;
                    most[0] = Math.max(most[0], now[0]);
                    most[1] = Math.max(most[1], now[1]);
                }
                Thread.sleep(5);
                synchronized (now) {
                    now[0]--;
                    now[1] -= own;
                }
                return null;
            }

            @Override
            public void stop() {}
        };
        List<Pool.Chain> chains = new ArrayList<>();
        Job job = new Job(Job.Kind.TRAIN, "lora", List.of(), "", null, "loss", 0, false, 1, 1, List.of());
        for (int i = 0; i < 12; i++) {
            Path where = folder.resolve("job" + i);
            bytes.put(where.toString(), 20L + i % 3 * 10);
            chains.add(new Pool.Chain("job", List.of(new Pool.Step(job, where)), bytes.get(where.toString()), f -> {}));
        }
        new Pool(counting, 3, 70, StudyProgress.NONE).run(chains);
        assertThat(most[0]).isBetween(2, 3);
        assertThat(most[1]).isLessThanOrEqualTo(70);
    }
}
