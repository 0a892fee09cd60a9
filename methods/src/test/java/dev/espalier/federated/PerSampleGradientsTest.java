package dev.espalier.federated;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.adapter.Lora;
import dev.espalier.data.Encoding;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Sgd;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class PerSampleGradientsTest {

    private Scope scope;
    private ToyFederation toy;
    private List<Encoding> rows;
    private Map<String, Parameter> trained;

    @BeforeEach
    void open() {
        scope = Scope.open();
        toy = new ToyFederation(3);
        rows = ToyFederation.examples(9, 8);
        trained = FederatedRule.factors(toy.adapter, true);
        try (Grad off = Grad.off();
                Generator g = Generator.of(6)) {
            trained.values()
                    .forEach(p -> p.tensor().add_(g.normal(0, 0.3, p.shape()).to(DType.FLOAT64)));
        }
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private PerSampleGradients.Taken taken() {
        return new PerSampleGradients(toy.adapter, trained.values(), 0).of(toy.task, ToyFederation.batch(rows));
    }

    /** The oracle: each sample alone, by autograd. */
    private List<Map<String, Tensor>> alone() {
        List<Map<String, Tensor>> all = new ArrayList<>();
        for (Encoding row : rows) {
            toy.task.loss(ToyFederation.batch(List.of(row))).backward();
            Map<String, Tensor> gradients = new LinkedHashMap<>();
            trained.forEach((key, p) -> {
                gradients.put(key, p.tensor().grad().clone());
                p.tensor().clearGrad();
            });
            all.add(gradients);
        }
        return all;
    }

    private static double norm(Map<String, Tensor> gradient) {
        return Math.sqrt(gradient.values().stream()
                .mapToDouble(g -> Math.pow(g.norm().item(), 2))
                .sum());
    }

    private Map<Parameter, Tensor> clipped(double bound) {
        Map<Parameter, Tensor> sums = DpSgd.sums(trained.values());
        taken().addClipped(bound, sums);
        return sums;
    }

    /** Both forms of the norm, and the loop over samples; padding within the batch included. */
    @Test
    @Card(
            value = "fedsvd",
            checks = {5})
    void ghostNormsEqualExplicitOnes() {
        PerSampleGradients.Taken taken = taken();
        assertThat(taken.outers()).hasSize(4);
        for (PerSampleGradients.Outer outer : taken.outers()) {
            assertThat(ToyFederation.gap(outer.ghost(), outer.explicit())).isLessThan(1e-10);
        }
        double[] norms = taken.norms();
        List<Map<String, Tensor>> alone = alone();
        for (int i = 0; i < norms.length; i++) {
            assertThat(norms[i]).isCloseTo(norm(alone.get(i)), within(1e-10));
        }
        assertThat(toy.net.fc.substitute()).as("what stood in is gone").isNotNull();
        assertThat(trained.values())
                .allSatisfy(p -> assertThat(p.tensor().grad()).isNull());
    }

    @Test
    @Card(
            value = "fedsvd",
            checks = {5})
    void eachSampleIsClippedToTheBound() {
        double bound = 0.5 * norm(alone().get(0));
        Map<String, Tensor> expected = new LinkedHashMap<>();
        trained.forEach((key, p) -> expected.put(key, p.tensor().detach().zerosLike()));
        for (Map<String, Tensor> gradient : alone()) {
            double factor = Math.min(1, bound / (norm(gradient) + 1e-6));
            assertThat(factor * norm(gradient)).isLessThanOrEqualTo(bound);
            gradient.forEach((key, g) -> expected.get(key).add_(g, factor));
        }
        Map<Parameter, Tensor> sums = clipped(bound);
        trained.forEach((key, p) -> assertThat(ToyFederation.gap(sums.get(p), expected.get(key)))
                .as(key)
                .isLessThan(1e-12));
        rows = rows.subList(0, 1);
        assertThat(norm(byKey(clipped(bound)))).isLessThanOrEqualTo(bound).isGreaterThan(bound * 0.999);
    }

    private Map<String, Tensor> byKey(Map<Parameter, Tensor> sums) {
        Map<String, Tensor> named = new LinkedHashMap<>();
        trained.forEach((key, p) -> named.put(key, sums.get(p)));
        return named;
    }

    @Test
    @Card(
            value = "fedsvd",
            checks = {5})
    void anOutlierMovesTheSumByNoMoreThanTwiceTheBound() {
        double bound = 0.1;
        Map<String, Tensor> usual = byKey(clipped(bound));
        toy.task.times.put(rows.get(4).source(), 1e6);
        Map<String, Tensor> moved = byKey(clipped(bound));
        Map<String, Tensor> difference = new LinkedHashMap<>();
        usual.forEach((key, g) -> difference.put(key, moved.get(key).sub(g)));
        assertThat(norm(difference)).isLessThanOrEqualTo(2 * bound);
    }

    /** Dropout of the adapter's input is the sample's own: a sample's gradient is that of what it went through. */
    @Test
    void dropoutIsPartOfTheGradient() {
        toy = new ToyFederation(Lora.Config.of(3, 3).withDropout(0.4));
        trained = FederatedRule.factors(toy.adapter, false);
        toy.net.train(true);
        Map<Parameter, Tensor> sums = DpSgd.sums(trained.values());
        Generator.seedDropout(5);
        new PerSampleGradients(toy.adapter, trained.values(), 0.4)
                .of(toy.task, ToyFederation.batch(rows))
                .addClipped(1e9, sums);
        Generator.seedDropout(5);
        toy.task.loss(ToyFederation.batch(rows)).backward();
        trained.forEach(
                (key, p) -> assertThat(ToyFederation.gap(sums.get(p), p.tensor().grad()))
                        .as(key)
                        .isLessThan(1e-6)); // the clip's 1e-6 over 1e9 aside
    }

    /** For one token ‖g uᵀ‖ = ‖g‖ s ‖A x‖, and ‖A x‖ ≤ ‖x‖ where A has orthonormal rows. */
    @Test
    @Card(
            value = "fedsvd",
            checks = {4})
    void orthonormalRowsBoundTheGradient() {
        Linear layer = new Linear(6, 5, true, DType.FLOAT64);
        Lora lora = new Lora(Lora.Config.of(3, 6), new dev.espalier.adapter.Site("x", layer), new Seed(0));
        try (Generator random = Generator.of(2)) {
            layer.weightParameter().tensor().copy_(random.randn(5, 6));
            layer.biasParameter().tensor().copy_(random.randn(5));
            for (boolean orthonormal : new boolean[] {true, false}) {
                if (orthonormal) {
                    FedSvd.refactorise(lora);
                } else {
                    lora.a().tensor().detach().copy_(random.normal(0, 2, 3, 6));
                }
                int above = 0;
                for (int i = 0; i < 20; i++) {
                    Tensor x = random.randn(1, 6).to(DType.FLOAT64);
                    Tensor g = random.randn(1, 5).to(DType.FLOAT64);
                    lora.forward(x, new dev.espalier.adapter.Base.Ground(layer)).backward(g);
                    double bound = lora.scale() * g.norm().item() * x.norm().item();
                    above += lora.b().tensor().grad().norm().item() > bound * (1 + 1e-12) ? 1 : 0;
                    lora.b().tensor().clearGrad();
                    lora.a().tensor().clearGrad();
                }
                assertThat(above > 0).isEqualTo(!orthonormal);
            }
        }
    }

    /** 10⁴ coordinates of noise alone: standard deviation lr σ C / m, to 3 %. */
    @Test
    @Card(
            value = "fedsvd",
            checks = {6})
    void noiseHasTheRightSize() {
        Parameter p = new Parameter(Tensor.zeros(DType.FLOAT32, 100, 100));
        p.trainable(true);
        DpSgd sampling = new DpSgd(50, 16); // 4 batches, 12 expected
        assertThat(sampling.chance()).isEqualTo(0.25);
        assertThat(sampling.expected()).isEqualTo(12);
        try (Optimizer sgd = Sgd.Config.DEFAULT.create(List.of(new ParameterGroup("all", Map.of("p", p), 1, 0)))) {
            sampling.setGradients(DpSgd.sums(List.of(p)), 0.7 * 2, new Seed(3));
            sgd.step(0.5);
        }
        double expected = 0.5 * 0.7 * 2 / 12;
        double std = p.tensor().detach().square().mean().sqrt().item();
        assertThat(std).isCloseTo(expected, within(0.03 * expected));
        assertThat(p.tensor().detach().mean().item()).isCloseTo(0, within(4 * expected / 100));
    }
}
