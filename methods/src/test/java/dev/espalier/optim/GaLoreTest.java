package dev.espalier.optim;

import static dev.espalier.optim.Steps.gap;
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
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.adapter.TinyTask;
import dev.espalier.optim.PerParameter.Kept;
import dev.espalier.optim.PerParameter.Memory;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Callback;
import dev.espalier.train.Optimizer;
import dev.espalier.train.Sgd;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.Trainer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class GaLoreTest {

    private Scope scope;
    private Generator generator;

    @BeforeEach
    void open() {
        scope = Scope.open();
        generator = Generator.of(3);
    }

    @AfterEach
    void close() {
        generator.close();
        scope.close();
    }

    /** Plain descent inside the subspace. */
    private record Descent() implements Inner {
        @Override
        public Map<String, Kept> layout(DType dtype, long... shape) {
            return Map.of();
        }

        @Override
        public Tensor step(Tensor gradient, Memory memory, double rate) {
            return gradient.mul(rate);
        }
    }

    private static GaLore.Bound bound(int rank, int gap, double scale, String... matrices) {
        return new GaLore.Bound(
                new GaLore.Config(GaLore.Form.ADAMW, rank, gap, scale, GaLore.Config.DEFAULT.adam()), Set.of(matrices));
    }

    private static Optimizer descent(Steps steps, int rank, int gap) {
        return new PerParameter(
                steps.groups(0), name -> new GaLore.Projected(rank, gap, 1, new Descent()), Sgd.Config.DEFAULT);
    }

    private Steps matrices(DType dtype) {
        return new Steps().noise("tall", dtype, generator, 8, 5).noise("wide", dtype, generator, 5, 9);
    }

    /** Five steps of the authors' code with a new basis at the first, third and fifth. */
    @Test
    void stepsAreThoseOfTheAuthorsCode() {
        GaLore.Config config = new GaLore.Config(GaLore.Form.ADAMW, 2, 2, 0.25, new AdamW.Config(0.9, 0.999, 1e-6, 0));
        Steps.followsTheAuthors("galore-adamw", new GaLore.Bound(config, Set.of("tall", "wide")), 0.05, 0.1, 3e-5);
    }

    @Test
    @Card(
            value = "galore",
            checks = {1})
    void theBasisIsOrthonormalAndHoldsTheLargestSingularValues() {
        Steps steps = matrices(DType.FLOAT32);
        try (Optimizer optimizer = bound(3, 1, 1, "tall", "wide").create(steps.groups(0))) {
            steps.noiseGradients(generator);
            optimizer.step(0.1);
            for (String name : List.of("tall", "wide")) {
                Tensor p = optimizer.state().get("projection." + name);
                Tensor g = steps.parameters.get(name).tensor().grad();
                boolean right = name.equals("tall");
                Tensor rows = right ? p : p.t();
                assertThat(gap(rows.matmul(rows.t()), Tensor.eye(3, DType.FLOAT32)))
                        .isLessThan(1e-5);
                Tensor projector = rows.t().matmul(rows);
                Tensor low = right ? g.matmul(projector) : projector.matmul(g);
                List<Tensor> svd = g.svd();
                double squares = svd.get(1).narrow(0, 0, 3).square().sum().item();
                assertThat(low.square().sum().item()).isCloseTo(squares, within(1e-5 * squares));
                assertThat(gap(low, truncated(g, 3))).isLessThan(1e-5 * g.norm().item());
                assertThat(rows.gather(1, rows.abs().argmax(1).unsqueeze(1))
                                .gt(0)
                                .all())
                        .isTrue();
            }
        }
    }

    private static Tensor truncated(Tensor g, int rank) {
        List<Tensor> svd = g.svd();
        return svd.get(0)
                .narrow(1, 0, rank)
                .mul(svd.get(1).narrow(0, 0, rank))
                .matmul(svd.get(2).narrow(0, 0, rank));
    }

    @Test
    @Card(
            value = "galore",
            checks = {2})
    void plainDescentInTheWholeSpaceIsPlainDescent() {
        Steps steps = matrices(DType.FLOAT64);
        Steps plain = steps.copy();
        try (Optimizer projected = descent(steps, 5, 3);
                Optimizer sgd = Sgd.Config.DEFAULT.create(plain.groups(0))) {
            for (int i = 0; i < 7; i++) {
                steps.noiseGradients(generator);
                steps.parameters.forEach(
                        (name, p) -> plain.gradient(name, p.tensor().grad()));
                projected.step(0.1);
                sgd.step(0.1);
            }
        }
        steps.parameters
                .keySet()
                .forEach(name ->
                        assertThat(gap(steps.value(name), plain.value(name))).isLessThan(1e-5));
    }

    @Test
    @Card(
            value = "galore",
            checks = {2})
    void plainDescentWithABasisAStepFollowsTheTruncatedGradient() {
        Steps steps = matrices(DType.FLOAT64);
        try (Optimizer projected = descent(steps, 2, 1)) {
            for (int i = 0; i < 3; i++) {
                Steps before = steps.copy();
                steps.noiseGradients(generator);
                projected.step(0.1);
                steps.parameters.forEach((name, p) -> assertThat(gap(
                                before.value(name).sub(steps.value(name)),
                                truncated(p.tensor().grad(), 2).mul(0.1)))
                        .isLessThan(1e-12));
            }
        }
    }

    @Test
    @Card(
            value = "galore",
            checks = {3})
    void theChangeHasTheRankOfTheBasesItWasMadeIn() {
        Steps steps = matrices(DType.FLOAT64);
        Steps start = steps.copy();
        try (Optimizer optimizer = bound(2, 3, 1, "tall", "wide").create(steps.groups(0))) {
            for (int i = 1; i <= 6; i++) {
                steps.noiseGradients(generator);
                optimizer.step(0.1);
                for (String name : steps.parameters.keySet()) {
                    double[] values = steps.value(name)
                            .sub(start.value(name))
                            .svd()
                            .get(1)
                            .doubles();
                    int most = i <= 3 ? 2 : 4;
                    assertThat(values[most] / values[0])
                            .as("%s after %d", name, i)
                            .isLessThan(1e-5);
                    if (i > 3) {
                        assertThat(values[2] / values[0]).isGreaterThan(1e-3);
                    }
                }
            }
        }
    }

    @Test
    @Card(
            value = "galore",
            checks = {4})
    void stateIsThatOfTheFormula() {
        Steps steps = matrices(DType.FLOAT32).noise("bias", DType.FLOAT32, generator, 6);
        GaLore.Bound config = bound(2, 200, 0.25, "tall", "wide");
        long numbers = (2 * 5 + 2 * 2 * 8) + (2 * 5 + 2 * 2 * 9) + 2 * 6;
        assertThat(config.stateBytes(steps.groups(0))).isEqualTo(4 * numbers);
        Steps.declaresItsStateAndResumes(steps, bound(2, 3, 0.25, "tall", "wide"));
    }

    @Test
    @Card(
            value = "galore",
            checks = {5})
    void theFirstStepIsAdamsInTheSubspace() {
        Steps steps = matrices(DType.FLOAT64);
        Steps start = steps.copy();
        try (Optimizer optimizer = bound(2, 200, 0.25, "tall", "wide").create(steps.groups(0))) {
            steps.noiseGradients(generator);
            optimizer.step(0.1);
            double eps = 1e-6 / Math.sqrt(1 - 0.999);
            Tensor p = optimizer.state().get("projection.tall");
            Tensor r = steps.parameters.get("tall").tensor().grad().matmul(p.t());
            Tensor expected = r.div(r.abs().add(eps)).matmul(p).mul(-0.1 * 0.25);
            assertThat(gap(steps.value("tall").sub(start.value("tall")), expected))
                    .isLessThan(1e-6);
            p = optimizer.state().get("projection.wide");
            r = p.t().matmul(steps.parameters.get("wide").tensor().grad());
            expected = p.matmul(r.div(r.abs().add(eps))).mul(-0.1 * 0.25);
            assertThat(gap(steps.value("wide").sub(start.value("wide")), expected))
                    .isLessThan(1e-6);
        }
    }

    @Test
    @Card(
            value = "galore",
            checks = {6})
    void decayIsNotScaledByAlpha() {
        Steps steps = matrices(DType.FLOAT64);
        Steps start = steps.copy();
        try (Optimizer optimizer = bound(2, 200, 4, "tall", "wide").create(steps.groups(0.5))) {
            steps.parameters.forEach(
                    (name, p) -> steps.gradient(name, p.tensor().detach().zerosLike()));
            optimizer.step(0.1);
        }
        steps.parameters
                .keySet()
                .forEach(name -> assertThat(
                                gap(steps.value(name), start.value(name).mul(1 - 0.1 * 0.5)))
                        .isLessThan(1e-12));
    }

    /** A network that trains whole for a few steps, by GaLore and what goes with it. */
    private static Map<String, Tensor> trained(boolean inBackward, List<String> gradientsLeft) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter =
                model.attach("default", AdapterSpec.of(new Full(), Full.Config.DEFAULT, Targets.NONE), new Seed(1));
        TrainConfig config = TrainConfig.builder()
                .steps(6)
                .clip(0)
                .learningRate(0.02)
                .inBackward(inBackward)
                .optimizer(bound(
                        3, 2, 0.5, "base_model.model.layers.0.fc.weight", "base_model.model.layers.1.proj.weight"))
                .build();
        try (Trainer trainer = TinyTask.trainer(net, adapter, model, config)
                .callback(new Callback() {
                    @Override
                    public void afterBackward(StepContext step) {
                        step.run().parameters().forEach((name, p) -> {
                            if (p.tensor().grad() != null) {
                                gradientsLeft.add(name);
                            }
                        });
                    }
                })
                .build()) {
            trainer.train();
        }
        Map<String, Tensor> values = new LinkedHashMap<>();
        net.namedParameters().forEach((path, p) -> values.put(path, p.tensor().detach()));
        return values;
    }

    @Test
    @Card(
            value = "galore",
            checks = {7})
    void movedDuringTheBackwardPassItEndsInTheSameBits() {
        List<String> left = new ArrayList<>();
        Map<String, Tensor> inBackward = Map.of();
        for (int i = 0; i < 12; i++) { // no trainer leaves a hook behind, of which there may be few
            inBackward = trained(true, left);
        }
        Map<String, Tensor> found = inBackward;
        assertThat(left).isEmpty();
        trained(false, left)
                .forEach((path, value) ->
                        assertThat(found.get(path).equal(value)).as(path).isTrue());
        assertThat(left).hasSize(6 * found.size());
        assertThatThrownBy(() -> TrainConfig.builder().inBackward(true).build())
                .hasMessageEndingWith("found accumulation 1 and clip 1.0; set them to 1 and 0");
    }

    @Test
    void withoutAGradientAMatrixAndItsCountStay() {
        Steps steps = matrices(DType.FLOAT32);
        Steps start = steps.copy();
        try (Optimizer optimizer = bound(2, 200, 1, "tall", "wide").create(steps.groups(0.5))) {
            steps.gradient("tall", generator.randn(8, 5));
            optimizer.step(0.1);
            assertThat(steps.value("wide").equal(start.value("wide"))).isTrue();
            assertThat(optimizer.state().get("step.wide").item()).isZero();
            optimizer.zeroGrad();
            assertThat(steps.parameters.get("tall").tensor().grad()).isNull();
        }
    }

    @Test
    void itWorksOnWholeWeightsOnly() {
        assertThat(new GaLore().objection(new Full())).isNull();
        assertThatThrownBy(() -> Catalog.checkCombination(List.of(new GaLore(), Catalog.method("sora"))))
                .isInstanceOf(EspalierException.class)
                .hasMessage(
                        "galore and sora cannot be combined: GaLore projects gradients of whole weights, and sora trains none; use the adapter full, or another optimizer");
        assertThat(new GaLore().objection(new Lora.Type())).isNotNull();
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> bound(0, 1, 1)).hasMessage("rank must be at least 1, found 0; try 128");
        assertThatThrownBy(() -> bound(1, 0, 1)).hasMessage("update_proj_gap must be at least 1, found 0; try 200");
        assertThatThrownBy(() -> bound(1, 1, Double.NaN))
                .hasMessage("scale must be above 0 and finite, found NaN; try 0.25");
    }
}
