package dev.espalier.train;

import java.nio.file.Path;

/** Trains the toy in a folder, going on where it was; prints a line after the first step. */
final class KillMain {

    static final long STEPS = 150;

    private KillMain() {}

    /** Every source of difference at once: dropout, accumulation, shuffling, momentum, evaluation, a log window. */
    static TrainConfig config() {
        return TrainConfig.builder()
                .batchSize(2)
                .steps(STEPS)
                .accumulation(3)
                .learningRate(0.02)
                .schedule(new Schedule(Schedule.Curve.COSINE, 0, 0.1))
                .optimizer(new AdamW.Config(0.9, 0.999, 1e-8, 0.01))
                .evalEvery(7)
                .patience(1000)
                .checkpointEvery(1)
                .logEvery(3)
                .build();
    }

    static Trainer.Builder trainer(Toy toy, TrainConfig config) {
        return Trainer.builder(toy, Toy.data(2, 23))
                .parameters(toy.trainable())
                .validation(Toy.data(4, 24))
                .config(config)
                .progress(progress -> {});
    }

    public static void main(String[] arguments) {
        Path out = Path.of(arguments[0]);
        try (Toy toy = new Toy(0.3);
                Trainer trainer = trainer(toy, config())
                        .out(out)
                        .resume(out.resolve("run.json").toFile().exists())
                        .callback(new Callback() {
                            @Override
                            public void beforeTraining(TrainingRun run, long stepsDone) {
                                System.out.println("training " + stepsDone);
                            }
                        })
                        .build()) {
            trainer.train();
        }
    }
}
