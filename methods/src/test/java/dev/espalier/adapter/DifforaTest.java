package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ModuleSearch;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The contract on a found selection of one module of each kind; it stands for check 1 with the others here. */
@Card(value = "diffora", checks = 1)
class DifforaTest extends AdapterContract {

    private static Diffora.Config config(double rho, boolean sharing, boolean searched, String... selected) {
        Diffora.Config usual = Diffora.Config.DEFAULT;
        return new Diffora.Config(
                rho,
                3,
                6,
                0,
                sharing,
                2,
                usual.selection(),
                usual.byNorm(),
                usual.restart(),
                new ModuleSearch.Config(6, 0.3, 1e-2, 1e-2, false),
                searched,
                List.of(selected),
                Map.of());
    }

    private static AdapterSpec<?> spec(Diffora.Config config) {
        return AdapterSpec.of(new Diffora.Type(), config, Targets.of("fc", "proj"));
    }

    @Override
    protected AdapterSpec<?> spec() {
        return spec(config(0.5, true, true, "layers.0.fc", "layers.1.proj"));
    }

    /** fc 8 to 10 and proj 10 to 8, each selected in one of two layers: half of r (in + out) on average. */
    @Override
    @Card(value = "diffora", checks = 7)
    protected long parameters(long out, long in) {
        return 3 * (in + out) / 2;
    }

    @Override
    protected long sharedParameters() {
        return 2 * 2 * (8 + 10);
    }

    private static Diffora on(Linear layer) {
        Site site = new Site("x", layer);
        return (Diffora) new Diffora.Type()
                .create(config(1, true, false), List.of(site), new Seed(0))
                .adapters()
                .get("x");
    }

    private static Tensor wide(Generator g, long... shape) {
        return g.randn(shape).to(DType.FLOAT64);
    }

    private static void set(Diffora adapter, Tensor a, Tensor b) {
        try (Grad off = Grad.off()) {
            adapter.parameters().get("lora_A.weight").tensor().copy_(a);
            adapter.parameters().get("lora_B.weight").tensor().copy_(b);
        }
    }

    @Test
    @Card(
            value = "diffora",
            checks = {1, 2, 3})
    void theGateMultipliesTheChange() {
        Linear layer = Gradients.layer();
        Base base = new Base.Ground(layer);
        try (Generator g = Generator.of(3)) {
            Diffora adapter = on(layer);
            Tensor x = wide(g, 2, 3, 4);
            Tensor plain = layer.compute(x);
            for (double gamma : new double[] {0, 0.4, 1}) {
                Tensor gate = Tensor.full(gamma, DType.FLOAT64, 1);
                assertThat(gap(adapter.forward(x, base, gate), plain)).isLessThan(1e-15); // B = 0
            }
            Tensor target = wide(g, 2, 3, 5);
            Tensor untouched = Tensor.full(0.4, DType.FLOAT64, 1).requiresGrad_(true);
            adapter.forward(x, base, untouched).mul(target).sum().backward();
            assertThat(untouched.grad().item()).isZero();
            Tensor a = wide(g, 3, 4);
            Tensor b = wide(g, 5, 3);
            set(adapter, a, b);
            for (double gamma : new double[] {0, 0.4, 1}) {
                Tensor gate = Tensor.full(gamma, DType.FLOAT64, 1);
                Tensor expected = plain.add(x.matmul(a.t()).matmul(b.t()), 2 * gamma);
                assertThat(gap(adapter.forward(x, base, gate), expected)).isLessThan(1e-12);
            }
            // ∂L/∂γ = Σ ⟨δ, s (x Aᵀ) Bᵀ⟩ = ⟨∂L/∂ΔW, s B A⟩;  ∂L/∂θ = that γ (1 - γ)
            Tensor theta = Tensor.full(0.3, DType.FLOAT64, 1).requiresGrad_(true);
            Tensor y = adapter.forward(x, base, theta.sigmoid());
            y.mul(target).sum().backward();
            double direct = target.mul(x.matmul(a.t()).matmul(b.t())).sum().item() * 2;
            double dense = target.reshape(-1, 5)
                            .t()
                            .matmul(x.reshape(-1, 4))
                            .mul(b.matmul(a))
                            .sum()
                            .item()
                    * 2;
            assertThat(dense).isCloseTo(direct, within(1e-10));
            double gamma = 1 / (1 + Math.exp(-0.3));
            assertThat(theta.grad().item()).isCloseTo(direct * gamma * (1 - gamma), within(1e-10));
            double[] sides = new double[2];
            for (int i = 0; i < 2; i++) {
                Tensor moved = Tensor.full(0.3 + (i == 0 ? 1e-6 : -1e-6), DType.FLOAT64, 1);
                sides[i] = adapter.forward(x, base, moved.sigmoid())
                        .mul(target)
                        .sum()
                        .item();
            }
            assertThat(theta.grad().item()).isCloseTo((sides[0] - sides[1]) / 2e-6, within(1e-6));
        }
    }

    /** Loss, of weights and θ, that knows which half of the data it is of. */
    private record Toy(Parameter w, Parameter theta, double a, double b) implements ModuleSearch.Losses {
        @Override
        public Tensor train(long step) {
            return w.tensor().sub(theta.tensor().mul(a)).square().sum().div(2);
        }

        @Override
        public Tensor validation(long step) {
            return w.tensor().sub(b).square().sum().div(2);
        }
    }

    private static Parameter parameter(double value) {
        return new Parameter(Tensor.full(value, DType.FLOAT64, 1));
    }

    private static ModuleSearch search(
            double rate, boolean unrolled, Parameter theta, Parameter w, ModuleSearch.Losses l) {
        return new ModuleSearch(new ModuleSearch.Config(3, 0, 1e-2, rate, unrolled), theta, Map.of("w", w), l);
    }

    private static double hyperGradient(ModuleSearch search) {
        return search.thetaGradient(0).item();
    }

    @Test
    @Card(
            value = "diffora",
            checks = {4, 5})
    void theUnrolledGradientLooksOneStepAhead() {
        double xi = 0.1;
        double a = 0.7;
        double b = -0.4;
        Parameter w = parameter(0.9);
        Parameter theta = parameter(0.3);
        Toy toy = new Toy(w, theta, a, b);
        double ahead = 0.9 - xi * (0.9 - a * 0.3);
        assertThat(hyperGradient(search(xi, true, theta, w, toy))).isCloseTo(xi * a * (ahead - b), within(1e-9));
        assertThat(hyperGradient(search(1e-12, true, theta, w, toy))).isCloseTo(0, within(1e-11));
        assertThat(hyperGradient(search(xi, false, theta, w, toy))).isZero();
        assertThat(w.tensor().item()).isEqualTo(0.9);
        assertThat(theta.tensor().item()).isEqualTo(0.3);
        // a network: tanh(w ∘ x) gated by θ; central differences through the inner step
        try (Generator g = Generator.of(3)) {
            Tensor x = wide(g, 20, 4);
            Tensor seen = wide(g, 20);
            Tensor unseen = wide(g, 20);
            Parameter weights = new Parameter(wide(g, 4));
            Parameter gates = new Parameter(wide(g, 4));
            ModuleSearch.Losses losses = new ModuleSearch.Losses() {
                Tensor out() {
                    return x.mul(weights.tensor())
                            .tanh()
                            .mul(gates.tensor().sigmoid())
                            .sum(1, false);
                }

                @Override
                public Tensor train(long step) {
                    return out().sub(seen).square().mean();
                }

                @Override
                public Tensor validation(long step) {
                    return out().sub(unseen).square().mean();
                }
            };
            double[] found =
                    search(0.1, true, gates, weights, losses).thetaGradient(0).doubles();
            double[] start = weights.tensor().detach().doubles();
            for (int i = 0; i < 4; i++) {
                double[] sides = new double[2];
                for (int side = 0; side < 2; side++) {
                    double[] moved = gates.tensor().detach().doubles();
                    double[] original = moved.clone();
                    moved[i] += side == 0 ? 1e-5 : -1e-5;
                    set(gates, moved);
                    weights.trainable(true);
                    losses.train(0).backward();
                    Tensor inner = weights.tensor().grad().clone();
                    weights.tensor().clearGrad();
                    try (Grad off = Grad.off()) {
                        weights.tensor().add_(inner, -0.1);
                        sides[side] = losses.validation(0).item();
                    }
                    set(weights, start);
                    set(gates, original);
                }
                assertThat(found[i]).isCloseTo((sides[0] - sides[1]) / 2e-5, within(1e-4));
            }
        }
    }

    private static void set(Parameter p, double[] values) {
        try (Grad off = Grad.off()) {
            p.tensor().copy_(Tensor.of(values, p.shape()));
        }
    }

    /** What a search asks of its data: even batches to learn by, odd ones to judge by. */
    private static Calibration recorded(Tiny net, int batches, Set<Long> asked) {
        TinyTask task = new TinyTask(net);
        return new Calibration() {
            @Override
            public long batches() {
                return batches;
            }

            @Override
            public Tensor loss(long batch) {
                asked.add(batch);
                var data = TinyTask.data(4, 4 * batches);
                var cursor = dev.espalier.data.Collator.Cursor.START;
                for (int i = 0; i < batch; i++) {
                    cursor = data.after(cursor);
                }
                var one = data.batch(cursor);
                return task.loss(one).div(task.units(one));
            }
        };
    }

    @Test
    @Card(
            value = "diffora",
            checks = {4, 7})
    void aSearchTakesHalfOfTheDataToJudgeByAndLeavesFreshFactors(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Set<Long> asked = new LinkedHashSet<>();
        AdapterSpec<?> spec = spec(config(0.5, true, false));
        Attached adapter = model.attach("default", spec, new Seed(1), recorded(net, 4, asked));
        assertThat(asked).containsExactlyInAnyOrder(0L, 1L, 2L, 3L);
        assertThat(gap(run(net), before)).isLessThan(2e-6);
        long trained = model.trainableParameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
        long kinds = adapter.made().shared().size() / 2;
        assertThat(trained).isEqualTo(2 * 3 * 18 + kinds * 2 * 18); // one of two in each layer
        move(adapter, 0.3);
        Tensor moved = run(net);
        assertThat(gap(moved, before)).isGreaterThan(1e-3);
        PeftFolder.save(
                model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of("seed", 1));
        model.remove("default");
        Attached again = PeftFolder.load(model, folder, null, true);
        assertThat(run(net).equal(moved)).isTrue();
        Diffora.Config found = (Diffora.Config) again.spec().config();
        assertThat(found.searched()).isTrue();
        assertThat(found.selected()).hasSize(2);
        assertThat(found.gamma().values()).hasSize(4).allMatch(gamma -> gamma > 0.4 && gamma < 0.6);
        assertThat(found.gamma().values()).anyMatch(gamma -> gamma != 0.5);
    }

    @Test
    @Card(
            value = "diffora",
            checks = {2, 6})
    void allOfTheModulesIsPlainLoraAndNoneIsOneForEachKind() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached all = model.attach("all", spec(config(1, true, false)), new Seed(1));
        Attached lora = model.attach(
                "lora", AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6), Targets.of("fc", "proj")), new Seed(1));
        assertThat(all.parameters().keySet()).isEqualTo(lora.parameters().keySet());
        lora.parameters()
                .forEach((key, p) -> assertThat(
                                all.parameters().get(key).tensor().equal(p.tensor()))
                        .as(key)
                        .isTrue());
        move(lora, 0.3);
        Tensor one = run(net);
        model.activate("all");
        move(all, 0.3);
        assertThat(gap(run(net), one)).isLessThan(1e-6);
        Attached none = model.attach("none", spec(config(0, true, false)), new Seed(1));
        assertThat(none.parameters().keySet())
                .containsExactlyInAnyOrder(
                        "base_model.diffora_A.fc.10x8",
                        "base_model.diffora_B.fc.10x8",
                        "base_model.diffora_A.proj.8x10",
                        "base_model.diffora_B.proj.8x10");
        Attached frozen = model.attach("frozen", spec(config(0, false, false)), new Seed(1));
        assertThat(frozen.parameters()).isEmpty();
    }

    @Test
    @Card(value = "diffora", checks = 7)
    void aSharedPairsGradientIsTheSumOfItsCopies() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached tied = model.attach("tied", spec(config(0, true, false)), new Seed(1));
        move(tied, 0.3);
        net.forward(Tiny.ids()).square().sum().backward();
        Map<String, Tensor> gradients = new LinkedHashMap<>();
        tied.parameters().forEach((key, p) -> gradients.put(key, p.tensor().grad()));
        Attached copies = model.attach(
                "copies",
                AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, 6), Targets.of("fc", "proj")), // s = 6 / 2, as r̃
                new Seed(1));
        for (Site site : copies.sites()) {
            LoraFactors shared = ((Diffora) tied.at(site.path())).toLora();
            try (Grad off = Grad.off()) {
                copies.lowRank(site.path()).a().tensor().copy_(shared.a());
                copies.lowRank(site.path()).b().tensor().copy_(shared.b());
            }
        }
        net.forward(Tiny.ids()).square().sum().backward();
        for (String kind : List.of("fc", "proj")) {
            String shape = kind.equals("fc") ? "10x8" : "8x10";
            Tensor sum = copies.lowRank("layers.0." + kind)
                    .b()
                    .tensor()
                    .grad()
                    .add(copies.lowRank("layers.1." + kind).b().tensor().grad());
            assertThat(gap(gradients.get("base_model.diffora_B." + kind + "." + shape), sum))
                    .isLessThan(1e-9);
        }
    }

    @Test
    @Card(value = "diffora", checks = 6)
    void asManyAreSelectedAsTheShareSays() {
        double[] scores = {0.5, 0.9, 0.5, 0.1, 0.2, 0.2, 0.2, 0.3};
        List<String> rows = List.of("a", "a", "a", "a", "b", "b", "b", "b");
        assertThat(ModuleSearch.select(scores, rows, 0.5))
                .containsExactly(true, true, false, false, true, false, false, true);
        assertThat(ModuleSearch.select(scores, java.util.Collections.nCopies(8, ""), 0.25))
                .containsExactly(true, true, false, false, false, false, false, false);
        boolean[] smaller = new boolean[8];
        for (double rho : new double[] {0, 0.2, 0.25, 0.4, 0.6, 0.75, 1}) {
            boolean[] chosen = ModuleSearch.select(scores, rows, rho);
            int count = 0;
            for (int i = 0; i < 8; i++) {
                assertThat(chosen[i] || !smaller[i]).isTrue();
                count += chosen[i] ? 1 : 0;
            }
            assertThat(count).isEqualTo(2 * (int) Math.ceil(4 * rho));
            smaller = chosen;
        }
        double[] ten = new double[10];
        boolean[] seven = ModuleSearch.select(ten, java.util.Collections.nCopies(10, ""), 0.7);
        int count = 0;
        for (boolean one : seven) {
            count += one ? 1 : 0;
        }
        assertThat(count).isEqualTo(7); // 0.7 · 10 rounds above 7
        assertThat(Diffora.row("encoder.layer.3.attention.self.query")).isEqualTo("encoder.layer.3");
        assertThat(Diffora.kind("encoder.layer.3.attention.self.query", 8, 4)).isEqualTo("attention_self_query.8x4");
        assertThat(Diffora.row("head")).isEmpty();
    }

    /** The theory's reason, on a linear model: residual r(t) = exp(-J Jᵀ t) r(0). */
    @Test
    @Card(value = "diffora", checks = 8)
    void theSmallestEigenvalueOfTheGramMatrixBoundsTheDescent() {
        try (Generator g = Generator.of(3)) {
            Tensor j = wide(g, 4, 9);
            double last = 0;
            for (int columns = 5; columns <= 9; columns++) {
                Tensor part = j.narrow(1, 0, columns);
                List<Tensor> eigen = part.matmul(part.t()).eigh();
                double least = eigen.get(0).min().item();
                assertThat(least).isGreaterThanOrEqualTo(last);
                last = least;
                Tensor residual = wide(g, 4, 1);
                for (double t : new double[] {0.01, 0.1, 0.5}) {
                    Tensor coefficients = eigen.get(1).t().matmul(residual).reshape(-1);
                    double square = coefficients
                            .mul(eigen.get(0).mul(-t).exp())
                            .square()
                            .sum()
                            .item();
                    double start = residual.square().sum().item();
                    assertThat(square).isLessThanOrEqualTo(Math.exp(-2 * least * t) * start + 1e-12);
                }
            }
        }
    }

    /** Three layers of four modules of width 12, each with a role of its own. */
    private static final class Layers extends Module {
        final List<Linear> modules = new ArrayList<>();

        Layers(Seed seed) {
            try (Generator g = seed.generator()) {
                for (int l = 0; l < 3; l++) {
                    for (int m = 0; m < 4; m++) {
                        Linear linear = child("layers." + l + ".m" + m, new Linear(12, 12, false, DType.FLOAT32));
                        linear.weightParameter().tensor().copy_(g.normal(0, 0.3, 12, 12));
                        modules.add(linear);
                    }
                }
            }
        }

        Tensor forward(Tensor x) {
            for (int l = 0; l < 3; l++) {
                Tensor gate = modules.get(4 * l).forward(x).sigmoid();
                Tensor value = modules.get(4 * l + 1).forward(x).tanh();
                Tensor up = modules.get(4 * l + 2).forward(gate.mul(value)).relu();
                x = x.add(modules.get(4 * l + 3).forward(up));
            }
            return x;
        }
    }

    /** How many of the six changed modules a search finds, by γ and by γ ‖B A‖. */
    private static int[] found(long seed) {
        try (Scope scope = Scope.open()) {
            Layers student = new Layers(new Seed(seed));
            Layers teacher = new Layers(new Seed(seed));
            Set<Integer> changed = new LinkedHashSet<>();
            try (Generator g = new Seed(100 + seed).generator()) {
                for (int l = 0; l < 3; l++) {
                    for (long m : g.randperm(4).narrow(0, 0, 2).longs()) {
                        changed.add(4 * l + (int) m);
                        Tensor change = g.normal(0, 0.6, 12, 2).matmul(g.normal(0, 0.6, 2, 12));
                        teacher.modules
                                .get(4 * l + (int) m)
                                .weightParameter()
                                .tensor()
                                .add_(change);
                    }
                }
            }
            List<Diffora> adapters = new ArrayList<>();
            Map<String, Parameter> weights = new LinkedHashMap<>();
            Parameter theta = new Parameter(Tensor.zeros(DType.FLOAT32, 12));
            for (int i = 0; i < 12; i++) {
                Linear layer = student.modules.get(i);
                layer.weightParameter().trainable(false);
                teacher.modules.get(i).weightParameter().trainable(false);
                Diffora adapter = (Diffora) new Diffora.Type()
                        .create(config(0.5, true, false), List.of(new Site("m" + i, layer)), new Seed(seed))
                        .adapters()
                        .get("m" + i);
                int m = i;
                adapters.add(adapter);
                adapter.parameters().forEach((leaf, p) -> weights.put(m + leaf, p));
                layer.substitute((x, self) -> adapter.forward(
                        x, new Base.Ground(self), theta.tensor().narrow(0, m, 1).sigmoid()));
            }
            ModuleSearch.Losses losses = new ModuleSearch.Losses() {
                Tensor loss(Seed of) {
                    try (Generator g = of.generator()) {
                        Tensor x = g.randn(32, 12);
                        return student.forward(x)
                                .sub(teacher.forward(x))
                                .square()
                                .mean();
                    }
                }

                @Override
                public Tensor train(long step) {
                    return loss(new Seed(seed).named("train").at(step));
                }

                @Override
                public Tensor validation(long step) {
                    return loss(new Seed(seed).named("validation").at(step));
                }
            };
            new ModuleSearch(new ModuleSearch.Config(400, 0.1, 2e-2, 1e-2, false), theta, weights, losses).run();
            double[] gamma = theta.tensor().detach().sigmoid().doubles();
            double[] norms = new double[12];
            for (int i = 0; i < 12; i++) {
                norms[i] = gamma[i] * adapters.get(i).toLora().norm();
            }
            List<String> rows = new ArrayList<>();
            for (int i = 0; i < 12; i++) {
                rows.add("" + i / 4);
            }
            int[] found = new int[2];
            for (int i = 0; i < 12; i++) {
                found[0] += ModuleSearch.select(gamma, rows, 0.5)[i] && changed.contains(i) ? 1 : 0;
                found[1] += ModuleSearch.select(norms, rows, 0.5)[i] && changed.contains(i) ? 1 : 0;
            }
            return found;
        }
    }

    /** Two seeds, fewer steps than in the card's trial, which found five and six; by chance three would be found. */
    @Test
    @Card(value = "diffora", checks = 9)
    void theSearchFindsWhatATeacherHasChanged() {
        for (long seed = 1; seed <= 2; seed++) {
            int[] found = found(seed);
            assertThat(found[0]).as("by γ, %s", Arrays.toString(found)).isGreaterThanOrEqualTo(4);
            assertThat(found[1]).as("by γ ‖B A‖, %s", Arrays.toString(found)).isGreaterThanOrEqualTo(5);
        }
    }

    @Test
    void badInputIsRefusedWithAReason() {
        for (double rho : new double[] {-0.1, 1.1, Double.NaN}) {
            assertThatThrownBy(() -> config(rho, true, false))
                    .hasMessage("rho must lie in [0, 1], found %s; try 0.5", rho);
        }
        assertThatThrownBy(() -> new ModuleSearch.Config(0, 0, 1, 1, false))
                .hasMessage("search_steps must be at least 1, found 0; try 50");
        assertThatThrownBy(() -> new ModuleSearch.Config(1, 1, 1, 1, false))
                .hasMessage("search_warmup must lie in [0, 1), found 1.0; try 0.1");
        assertThatThrownBy(() -> new ModuleSearch.Config(1, 0, 0, 1, false))
                .hasMessage("lr_theta must be above 0 and finite, found 0.0; try 0.01");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach("a", spec(config(0.5, true, false)), new Seed(1)))
                .hasMessage(
                        "diffora searches on one half of the batches and judges by the other, and there are none; give more data, a smaller batch, or rho 1");
        assertThatThrownBy(() -> model.attach(
                        "a", spec(config(0.5, true, false)), new Seed(1), recorded(net, 1, new LinkedHashSet<>())))
                .hasMessageContaining("judges by the other, and there is 1;");
    }
}
