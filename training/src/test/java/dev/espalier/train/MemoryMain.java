package dev.espalier.train;

import dev.espalier.tensor.Machine;

/** Trains 1,200 steps and prints native objects and resident bytes after 200 and after all. */
final class MemoryMain {

    private MemoryMain() {}

    public static void main(String[] arguments) {
        TrainConfig config = TrainConfig.builder()
                .batchSize(4)
                .steps(1200)
                .accumulation(2)
                .evalEvery(50)
                .build();
        try (Toy toy = new Toy(0.1);
                Trainer trainer = Trainer.builder(toy, Toy.data(4, 24))
                        .parameters(toy.trainable())
                        .config(config)
                        .validation(Toy.data(4, 24))
                        .callback(new Callback() {
                            @Override
                            public void afterStep(StepContext step) {
                                if (step.step() == 200 || step.step() == 1200) {
                                    System.out.println(Machine.liveNativeObjects() + " " + Machine.residentBytes());
                                }
                            }
                        })
                        .progress(progress -> {})
                        .build()) {
            trainer.train();
        }
    }
}
