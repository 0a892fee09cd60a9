package dev.espalier.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** Expected numbers: torch.optim and transformers, by tools/golden/make_optim_fixtures.py. */
class OptimizerTest {

    private static final Map<String, Object> GOLDEN =
            Json.read(Path.of("src/test/resources/golden/optim.json").toAbsolutePath());

    @TestFactory
    Stream<DynamicTest> updatesAreTorchs() {
        return map(GOLDEN.get("optimizers")).entrySet().stream()
                .map(e -> DynamicTest.dynamicTest(e.getKey(), () -> {
                    Map<String, Object> c = map(e.getValue());
                    follows(c, DType.FLOAT64, 1e-12);
                    follows(c, DType.FLOAT32, 1e-6);
                }));
    }

    @TestFactory
    Stream<DynamicTest> schedulesGiveTransformersNumbers() {
        return list(GOLDEN.get("schedules")).stream()
                .map(c -> DynamicTest.dynamicTest(
                        "%s %s %s".formatted(map(c).get("schedule"), map(c).get("steps"), map(c).get("warmup_steps")),
                        () -> {
                            Schedule.Curve curve = Schedule.Curve.valueOf(
                                    map(c).get("schedule").toString().toUpperCase(Locale.ROOT));
                            long total = (long) map(c).get("steps");
                            Schedule schedule = new Schedule(curve, (long) map(c).get("warmup_steps"), 0);
                            double[] expected = doubles(map(c).get("factors"));
                            for (int step = 0; step < total; step++) {
                                assertThat(schedule.factor(step, total)).isEqualTo(expected[step], within(1e-12));
                            }
                        }));
    }

    @Test
    void groupsHaveTheirOwnRateAndDecay() {
        try (Params p = new Params(DType.FLOAT32, 2, 2);
                Scope scope = Scope.open()) {
            p.map.values().forEach(v -> v.tensor().detach().fill_(1));
            Map<String, Parameter> first = Map.of("p0", p.map.get("p0"));
            Map<String, Parameter> second = Map.of("p1", p.map.get("p1"));
            try (Optimizer sgd = Sgd.Config.DEFAULT.create(
                    List.of(new ParameterGroup("decayed", first, 1, 0.5), new ParameterGroup("fast", second, 4, 0)))) {
                p.step(sgd, 0.25); // gradient 1 everywhere
            }
            assertThat(p.map.get("p0").tensor().floats()).containsOnly(1 - 0.25f * (1 + 0.5f));
            assertThat(p.map.get("p1").tensor().floats()).containsOnly(1 - 4 * 0.25f);
        }
    }

    @Test
    void aParameterWithoutGradientRests() {
        try (Params p = new Params(DType.FLOAT32, 2, 2);
                Params alone = new Params(DType.FLOAT32, 2);
                Optimizer adam = new AdamW.Config(0.9, 0.999, 1e-8, 0.1).create(p.groups());
                Optimizer lone = new AdamW.Config(0.9, 0.999, 1e-8, 0.1).create(alone.groups())) {
            p.step(adam, 0.5);
            float[] before = p.map.get("p1").tensor().floats();
            p.map.get("p0").tensor().sum().backward();
            adam.step(0.5);
            adam.zeroGrad();
            assertThat(p.map.get("p1").tensor().floats()).isEqualTo(before);
            p.step(adam, 0.5);
            // The rested parameter has had two updates and is where a parameter with two updates is.
            alone.step(lone, 0.5);
            alone.step(lone, 0.5);
            assertThat(p.map.get("p1").tensor().floats())
                    .isEqualTo(alone.map.get("p0").tensor().floats());
        }
    }

    @Test
    void aWarmupRatioIsRoundedUpToWholeSteps() {
        // 10 % of 15 steps is 1.5: two steps of warm-up
        Schedule schedule = new Schedule(Schedule.Curve.CONSTANT, 0, 0.1);
        assertThat(schedule.factor(1, 15)).isEqualTo(0.5);
        assertThat(schedule.factor(2, 15)).isEqualTo(1);
    }

    @Test
    void badSettingsAreRefused() {
        assertThatThrownBy(() -> new Schedule(Schedule.Curve.LINEAR, 0, 1))
                .hasMessage(
                        "warmupRatio must lie in [0, 1), found 1.0; try 0.03, or warmupSteps for a number of steps");
        assertThatThrownBy(() -> new Schedule(Schedule.Curve.LINEAR, 3, 0.1))
                .hasMessage("give warmupSteps or warmupRatio, not both: found 3 and 0.1");
        assertThatThrownBy(() -> new AdamW.Config(1, 0.999, 1e-8, 0))
                .hasMessage("beta1 must lie in [0, 1), found 1.0; try 0.9");
        assertThatThrownBy(() -> new AdamW.Config(0.9, Double.NaN, 1e-8, 0))
                .hasMessage("beta2 must lie in [0, 1), found NaN; try 0.999");
        assertThatThrownBy(() -> new AdamW.Config(0.9, 0.999, 0, 0))
                .hasMessage("eps must be above 0 and finite, found 0.0; try 1e-8");
        assertThatThrownBy(() -> new AdamW.Config(0.9, 0.999, 1e-8, Double.POSITIVE_INFINITY))
                .hasMessage("weightDecay must be at least 0 and finite, found Infinity; try 0.01");
        assertThatThrownBy(() -> new Sgd.Config(0, true, 0))
                .hasMessage("nesterov needs a momentum above 0, found 0.0; try 0.9");
        assertThatThrownBy(() -> new ParameterGroup("heads", Map.of(), -1, 0))
                .hasMessage("the learning rate factor of group heads must be at least 0 and finite, found -1.0; try 1");
    }

    @Test
    void stateSizesAreWhatIsHeld() {
        try (Params p = new Params(DType.FLOAT32, 3, 5, 200_000)) { // the last is large: a slab of its own
            try (Optimizer adam = AdamW.Config.DEFAULT.create(p.groups());
                    Scope scope = Scope.open()) {
                assertThat(adam.stateBytes()).isZero();
                p.step(adam, 0.1);
                assertThat(adam.stateBytes()).isEqualTo(2 * 4 * 200_008L);
                assertThat(AdamW.Config.DEFAULT.stateBytes(p.groups())).isEqualTo(adam.stateBytes());
                long held = adam.state().entrySet().stream()
                        .filter(e -> e.getKey().startsWith("exp_avg"))
                        .mapToLong(e -> e.getValue().bytes())
                        .sum();
                assertThat(held).isEqualTo(adam.stateBytes());
            }
            try (Optimizer momentum = new Sgd.Config(0.9, false, 0).create(p.groups());
                    Optimizer plain = Sgd.Config.DEFAULT.create(p.groups())) {
                p.step(momentum, 0.1);
                p.step(plain, 0.1);
                assertThat(momentum.stateBytes()).isEqualTo(4 * 200_008L);
                assertThat(plain.stateBytes()).isZero();
                assertThat(new Sgd.Config(0.9, false, 0).stateBytes(p.groups())).isEqualTo(momentum.stateBytes());
                assertThat(Sgd.Config.DEFAULT.stateBytes(p.groups())).isZero();
            }
        }
    }

    @Test
    void savedStateGoesOnToTheSameBits() {
        try (Params one = new Params(DType.FLOAT32, 3, 5, 200_000);
                Params two = new Params(DType.FLOAT32, 3, 5, 200_000);
                Optimizer first = AdamW.Config.DEFAULT.create(one.groups());
                Optimizer second = AdamW.Config.DEFAULT.create(two.groups())) {
            one.step(first, 0.1);
            one.step(first, 0.1);
            try (Scope scope = Scope.open()) {
                two.map.forEach(
                        (name, p) -> p.tensor().detach().copy_(one.map.get(name).tensor()));
                second.load(first.state());
            }
            one.step(first, 0.1);
            two.step(second, 0.1);
            one.map.forEach((name, p) -> assertThat(two.map.get(name).tensor().floats())
                    .isEqualTo(p.tensor().floats()));
        }
    }

    @Test
    void whatIsForgottenStartsAfreshAndTheRestGoesOn() {
        try (Params one = new Params(DType.FLOAT32, 3, 5, 200_000);
                Params two = new Params(DType.FLOAT32, 3, 5, 200_000);
                Params fresh = new Params(DType.FLOAT32, 3);
                Optimizer first = AdamW.Config.DEFAULT.create(one.groups());
                Optimizer second = AdamW.Config.DEFAULT.create(two.groups());
                Optimizer third = AdamW.Config.DEFAULT.create(fresh.groups());
                Scope scope = Scope.open()) {
            one.step(first, 0.1);
            two.step(second, 0.1);
            float[] before = one.map.get("p0").tensor().floats();
            first.forget(List.of(one.map.get("p0"), one.map.get("p2")));
            assertThat(one.map.get("p0").tensor().floats()).isEqualTo(before);
            assertThat(first.stateBytes()).isEqualTo(2 * 4 * 5);
            assertThat(first.state()).doesNotContainKeys("exp_avg.p0", "exp_avg.p2");
            fresh.map.get("p0").tensor().detach().copy_(one.map.get("p0").tensor());
            one.step(first, 0.1);
            two.step(second, 0.1);
            fresh.step(third, 0.1);
            assertThat(one.map.get("p1").tensor().floats())
                    .isEqualTo(two.map.get("p1").tensor().floats());
            assertThat(one.map.get("p0").tensor().floats())
                    .isEqualTo(fresh.map.get("p0").tensor().floats());
            assertThat(first.stateBytes()).isEqualTo(second.stateBytes());
        }
    }

    @Test
    void foreignStateIsRefused() {
        try (Params three = new Params(DType.FLOAT32, 3);
                Params four = new Params(DType.FLOAT32, 4);
                Optimizer sgd = new Sgd.Config(0.9, false, 0).create(three.groups());
                Optimizer wider = new Sgd.Config(0.9, false, 0).create(four.groups());
                Optimizer adam = AdamW.Config.DEFAULT.create(three.groups());
                Scope scope = Scope.open()) {
            three.step(sgd, 0.1);
            three.step(adam, 0.1);
            four.step(wider, 0.1);
            assertThatThrownBy(() -> sgd.load(adam.state()))
                    .isInstanceOf(EspalierException.class)
                    .hasMessage(
                            "the optimiser state holds nothing for momentum_buffer.p0, expected shape [3]: it was saved"
                                    + " with another optimiser or other parameters");
            assertThatThrownBy(() -> sgd.load(wider.state()))
                    .hasMessageStartingWith(
                            "the optimiser state holds shape [4] for momentum_buffer.p0, expected shape [3]");
            Map<String, Tensor> more = new LinkedHashMap<>(sgd.state());
            more.put("exp_avg.p0", Tensor.zeros(DType.FLOAT32, 3));
            assertThatThrownBy(() -> sgd.load(more))
                    .hasMessageStartingWith("the optimiser state holds exp_avg.p0, which this optimiser does not keep");
        }
    }

    @Test
    void aTensorPutInPlaceByOthersIsTheOneUpdated() {
        try (Params p = new Params(DType.FLOAT32, 2, 2);
                Optimizer sgd = Sgd.Config.DEFAULT.create(p.groups());
                Scope scope = Scope.open()) {
            Parameter first = p.map.get("p0");
            first.set(Tensor.of(new float[] {5, 6}));
            p.step(sgd, 1); // gradient 1 everywhere
            assertThat(first.tensor().floats()).containsExactly(4, 5);
            p.step(sgd, 1);
            assertThat(first.tensor().floats()).containsExactly(3, 4);
            assertThat(p.map.get("p1").tensor().floats()).containsExactly(-2, -2);
        }
    }

    @Test
    void bfloat16ParametersKeepFloat32State() {
        try (Params p = new Params(DType.BFLOAT16, 4, 4);
                Optimizer adam = AdamW.Config.DEFAULT.create(p.groups());
                Scope scope = Scope.open()) {
            p.step(adam, 0.5);
            assertThat(adam.state().get("exp_avg.p0").dtype()).isEqualTo(DType.FLOAT32);
            assertThat(AdamW.Config.DEFAULT.stateBytes(p.groups())).isEqualTo(adam.stateBytes());
            // Adam's first step is lr in the direction of the gradient
            assertThat(p.map.get("p0").tensor().floats()).containsOnly(-0.5f);
        }
    }

    @Test
    void stepsLeaveNoNativeObjectsBehind() {
        try (Params p = new Params(DType.FLOAT32, 3, 5, 200_000);
                Optimizer adam = AdamW.Config.DEFAULT.create(p.groups())) {
            p.step(adam, 0.1);
            long before = Machine.liveNativeObjects();
            for (int i = 0; i < 50; i++) {
                p.step(adam, 0.1);
            }
            assertThat(Machine.liveNativeObjects()).isLessThanOrEqualTo(before);
        }
    }

    /** Runs a golden case twice over, as one parameter alone and as two halves side by side. */
    private static void follows(Map<String, Object> c, DType dtype, double tolerance) {
        Map<String, Object> settings = map(c.get("settings"));
        double decay = (double) settings.get("weight_decay");
        Optimizer.Config config = c.get("optimizer").equals("SGD")
                ? new Sgd.Config((double) settings.get("momentum"), (boolean) settings.get("nesterov"), decay)
                : new AdamW.Config(
                        doubles(settings.get("betas"))[0],
                        doubles(settings.get("betas"))[1],
                        (double) settings.get("eps"),
                        decay);
        List<?> expected = list(c.get(dtype == DType.FLOAT64 ? "float64" : "float32"));
        for (int[] cut : new int[][] {{0, 5}, {0, 2, 5}}) {
            Map<String, Parameter> params = new LinkedHashMap<>();
            for (int i = 0; i + 1 < cut.length; i++) {
                double[] part = Arrays.copyOfRange(doubles(c.get("start")), cut[i], cut[i + 1]);
                params.put("p" + i, new Parameter(Tensor.of(part).to(dtype)));
                params.get("p" + i).trainable(true);
            }
            try (Optimizer optimizer = config.create(List.of(new ParameterGroup("all", params, 1, decay)))) {
                for (int step = 0; step < expected.size(); step++) {
                    try (Scope scope = Scope.open()) {
                        optimizer.zeroGrad();
                        for (int i = 0; i + 1 < cut.length; i++) {
                            double[] g = Arrays.copyOfRange(
                                    doubles(list(c.get("gradients")).get(step)), cut[i], cut[i + 1]);
                            Tensor gradient = Tensor.of(g).to(dtype);
                            params.get("p" + i).tensor().mul(gradient).sum().backward();
                        }
                        optimizer.step((double) settings.get("lr"));
                        double[] found = params.values().stream()
                                .flatMapToDouble(p -> Arrays.stream(p.tensor().doubles()))
                                .toArray();
                        assertThat(found)
                                .as("%s after step %d", dtype, step)
                                .containsExactly(doubles(expected.get(step)), within(tolerance));
                    }
                }
            }
            params.values().forEach(p -> p.tensor().close());
        }
    }

    /** Vectors of zeros whose gradient is one everywhere. */
    private static final class Params implements AutoCloseable {
        final Map<String, Parameter> map = new LinkedHashMap<>();

        Params(DType dtype, int... sizes) {
            for (int i = 0; i < sizes.length; i++) {
                Parameter p = new Parameter(Tensor.zeros(dtype, sizes[i]));
                p.trainable(true);
                map.put("p" + i, p);
            }
        }

        List<ParameterGroup> groups() {
            return List.of(new ParameterGroup("all", map, 1, 0));
        }

        void step(Optimizer optimizer, double rate) {
            try (Scope scope = Scope.open()) {
                map.values().forEach(p -> p.tensor().sum().backward());
                optimizer.step(rate);
                optimizer.zeroGrad();
            }
        }

        @Override
        public void close() {
            map.values().forEach(p -> p.tensor().close());
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> map(Object value) {
        return (Map<String, Object>) value;
    }

    private static List<?> list(Object value) {
        return (List<?>) value;
    }

    private static double[] doubles(Object value) {
        return list(value).stream().mapToDouble(v -> ((Number) v).doubleValue()).toArray();
    }
}
