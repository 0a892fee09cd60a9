package dev.espalier.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Collator.Cursor;
import dev.espalier.data.Encoding;
import dev.espalier.model.CausalLm;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/** Tasks on the tiny random models that transformers made, by tools/golden/make_model_fixtures.py. */
class ModelTasksTest {

    private static Pretrained load(String name, Purpose purpose) {
        Path root = Path.of(System.getProperty("espalier.root"), "models/src/test/resources/golden/models");
        return Models.load(root.resolve(name), purpose);
    }

    private static List<Encoding> texts() {
        List<Encoding> texts = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            int[] ids = new int[4 + 3 * (i % 3)];
            boolean[] supervised = new boolean[ids.length];
            for (int t = 0; t < ids.length; t++) {
                ids[t] = 4 + (i * 11 + t * 5) % 60;
                supervised[t] = t >= 2;
            }
            texts.add(new Encoding(ids, null, supervised, null, "chats.jsonl:" + (i + 1)));
        }
        return texts;
    }

    private static Batch all(Collator.Options options) {
        return new Collator(texts(), options, new Seed(0)).batch(Cursor.START);
    }

    /** How texts are laid out in rows must not show: padded on either side or packed, loss and gradient are the same. */
    @Test
    void packingAndPaddingChangeNothing() {
        for (String family : List.of("llama", "gpt2", "mistral")) {
            try (Pretrained pretrained = load(family, Purpose.causalLm());
                    Scope scope = Scope.open()) {
                CausalLm model = pretrained.causalLm();
                CausalLmTask task = new CausalLmTask(model, 0);
                Parameter norm = model.backbone().namedParameters().values().stream()
                        .reduce((first, last) -> last) // of the final norm: every token's state goes through it
                        .orElseThrow();
                norm.trainable(true);
                List<Double> losses = new ArrayList<>();
                List<Tensor> gradients = new ArrayList<>();
                for (Collator.Options options : List.of(
                        new Collator.Options(6, 0, Collator.Side.RIGHT, false, 0),
                        new Collator.Options(6, 0, Collator.Side.LEFT, false, 0),
                        new Collator.Options(6, 0, Collator.Side.RIGHT, false, 20))) {
                    Batch batch = all(options);
                    assertThat(batch.targets()).isEqualTo(2 * (2 + 5 + 8));
                    assertThat(batch.segmentIds() != null).isEqualTo(options.packedLength() > 0);
                    Tensor loss = task.loss(batch);
                    loss.backward();
                    losses.add(loss.item());
                    gradients.add(norm.tensor().grad().clone());
                    norm.tensor().clearGrad();
                }
                for (int i = 1; i < losses.size(); i++) {
                    assertThat(losses.get(i)).as(family).isEqualTo(losses.get(0), within(1e-3));
                    assertThat(gradients.get(i).allclose(gradients.get(0), 1e-4, 1e-4))
                            .as(family)
                            .isTrue();
                }
            }
        }
    }

    /** The loss as its definition says, from all the logits of the same model. */
    @Test
    void theChunkedLossIsTheCrossEntropyOfTheModelsLogits() {
        try (Pretrained pretrained = load("llama", Purpose.causalLm());
                Scope scope = Scope.open()) {
            CausalLm model = pretrained.causalLm();
            Batch batch = all(new Collator.Options(6, 0, Collator.Side.RIGHT, false, 0));
            Tensor logits = model.forward(Inputs.of(batch, model)); // [B, T, V]
            int width = (int) logits.size(1);
            double expected = logits.narrow(1, 0, width - 1)
                    .flatten(0, 1)
                    .crossEntropy(batch.labels().narrow(1, 1, width - 1).flatten(0, 1), null, 0, Tensor.Reduction.SUM)
                    .item();
            assertThat(new CausalLmTask(model, 0).loss(batch).item()).isEqualTo(expected, within(1e-3));
            Evaluator judge = Evaluation.run(
                    new CausalLmTask(model, 0.3), new Collator(texts(), Collator.Options.of(2, 0), new Seed(0)));
            assertThat(judge.metrics().get("loss")).isEqualTo(expected / batch.targets(), within(1e-4));
        }
    }

    @Test
    void aClassifierLearnsItsClasses() {
        try (Pretrained pretrained = load("bert-classification", Purpose.classification("even", "odd"))) {
            SequenceClassifier model = pretrained.classifier();
            List<Encoding> texts = new ArrayList<>();
            for (int i = 0; i < 16; i++) {
                int[] ids = {4 + i, 30 + i % 2, 5};
                texts.add(new Encoding(ids, null, new boolean[3], i % 2, "data.csv:" + i));
            }
            Collator data = new Collator(texts, Collator.Options.of(8, 0), new Seed(0));
            ClassificationTask task = new ClassificationTask(model, ClassificationTask.Options.DEFAULT);
            Map<String, Parameter> parameters = new LinkedHashMap<>(model.namedParameters());
            parameters.keySet().removeIf(name -> name.contains("embeddings"));
            double before = Evaluation.run(task, data).metrics().get("loss");
            try (Trainer trainer = Trainer.builder(task, data)
                    .parameters(parameters)
                    .validation(data)
                    .config(TrainConfig.builder()
                            .epochs(20)
                            .batchSize(8)
                            .learningRate(5e-3)
                            .build())
                    .build()) {
                Map<String, Double> after = trainer.train().metrics();
                assertThat(after.get("accuracy")).isEqualTo(1);
                assertThat(after.get("loss")).isLessThan(0.3 * before);
            }
        }
    }
}
