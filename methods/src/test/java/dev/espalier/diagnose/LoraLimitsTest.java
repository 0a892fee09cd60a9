package dev.espalier.diagnose;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Card;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Targets;
import dev.espalier.diagnose.AttentionGradients.Gradients;
import dev.espalier.diagnose.AttentionGradients.Head;
import dev.espalier.diagnose.AttentionGradients.Upstream;
import dev.espalier.diagnose.LoraLimits.Config;
import dev.espalier.model.Input;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class LoraLimitsTest {

    private Scope scope;
    private Generator g;

    @BeforeEach
    void open() {
        scope = Scope.open();
        g = Generator.of(3);
    }

    @AfterEach
    void close() {
        g.close();
        scope.close();
    }

    private Tensor wide(long... shape) {
        return g.randn(shape).to(DType.FLOAT64);
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    /** A head whose largest score is as given. */
    private Head head(long length, long width, long values, double largest) {
        Tensor q = wide(length, width);
        Tensor k = wide(length, width);
        double beta = 1 / Math.sqrt(width);
        double found = q.matmul(k.t()).abs().max().item() * beta;
        double by = Math.sqrt(largest / found);
        return new Head(q.mul(by), k.mul(by), wide(length, values), beta);
    }

    /** A head of h = 4, v = 3 whose bound is as given. */
    private Head bounded(long length, double bound) {
        Head drawn = head(length, 4, 3, 1);
        double by = Math.sqrt(bound / drawn.bound());
        return new Head(drawn.q().mul(by), drawn.k().mul(by), drawn.v(), drawn.beta());
    }

    // ---- features and gradients

    @Test
    @Card(value = "lora-limits", checks = 1)
    void featuresGiveTheTruncatedExponential() {
        Tensor x = wide(20, 4).mul(0.6);
        Tensor y = wide(20, 4).mul(0.6);
        Tensor products = x.matmul(y.t());
        products = products.clamp(-3, 3); // what they are is below
        assertThat(gap(products, x.matmul(y.t()))).isZero();
        for (int degree : new int[] {2, 4, 6}) {
            Tensor expected = Tensor.ones(DType.FLOAT64, 20, 20);
            Tensor term = expected;
            for (int j = 1; j <= degree; j++) {
                term = term.mul(products).div(j);
                expected = expected.add(term);
            }
            Tensor fx = AttentionGradients.features(x, degree);
            assertThat(gap(fx.matmul(AttentionGradients.features(y, degree).t()), expected))
                    .isLessThan(1e-12);
            assertThat((double) fx.size(1)).isEqualTo(AttentionGradients.width(4, degree));
        }
        assertThat(AttentionGradients.width(4, 4)).isEqualTo(70);
        assertThat(AttentionGradients.width(64, 2)).isEqualTo(2145);
        assertThat(AttentionGradients.width(64, 4)).isEqualTo(814_385);
    }

    /** The card's pairs of M and g at a thousandth. */
    @Test
    void theDegreeIsTheSmallestThatTheBoundAllows() {
        double[] bounds = {0.1, 0.43, 1, 2.7, 5};
        int[] degrees = {2, 4, 8, 14, 24};
        for (int i = 0; i < bounds.length; i++) {
            assertThat(AttentionGradients.degree(bounds[i], 1e-3)).isEqualTo(degrees[i]);
        }
    }

    /** A LoRA on one of the three maps, x ↦ x Wᵀ + s (x Aᵀ) Bᵀ. */
    private record Map3(Tensor w, Tensor a, Tensor b) {
        Tensor of(Tensor x, double s) {
            return x.matmul(w.t()).add(x.matmul(a.t()).matmul(b.t()), s);
        }
    }

    private Map3 map(long out, long in, double size) {
        return new Map3(
                wide(out, in).mul(size),
                wide(2, in).mul(0.5).requiresGrad_(true),
                wide(out, 2).mul(0.1).requiresGrad_(true));
    }

    @Test
    @Card(value = "lora-limits", checks = 2)
    void exactGradientsAreThoseOfAutomaticDifferentiation() {
        double s = 1.5;
        double beta = 0.5;
        Tensor x = wide(12, 5);
        Tensor target = wide(12, 3);
        List<Map3> maps = List.of(map(4, 5, 1), map(4, 5, 1), map(3, 5, 1));
        Tensor q = maps.get(0).of(x, s);
        Tensor k = maps.get(1).of(x, s);
        Tensor v = maps.get(2).of(x, s);
        List<Tensor> leaves = List.of(
                q.detach().clone().requiresGrad_(true),
                k.detach().clone().requiresGrad_(true),
                v.detach().clone().requiresGrad_(true));
        loss(leaves.get(0), leaves.get(1), leaves.get(2), beta, target).backward();
        loss(q, k, v, beta, target).backward();
        try (Grad off = Grad.off()) {
            Gradients ours = AttentionGradients.exact(new Head(q, k, v, beta), o -> o.sub(target));
            List<Tensor> of = List.of(ours.dq(), ours.dk(), ours.dv());
            for (int i = 0; i < 3; i++) {
                assertThat(gap(of.get(i), leaves.get(i).grad())).isLessThan(1e-12);
                Map3 map = maps.get(i);
                List<Tensor> factors = AttentionGradients.ofFactors(of.get(i), x, map.a(), map.b(), s);
                assertThat(gap(factors.get(0), map.a().grad())).isLessThan(1e-12);
                assertThat(gap(factors.get(1), map.b().grad())).isLessThan(1e-12);
            }
        }
    }

    private static Tensor loss(Tensor q, Tensor k, Tensor v, double beta, Tensor target) {
        Tensor o = q.matmul(k.t()).mul(beta).softmax(1).matmul(v);
        return o.sub(target).square().sum().mul(0.5);
    }

    @Test
    @Card(value = "lora-limits", checks = 3)
    void theChainIsExactForExactFactors() {
        Head head = head(30, 4, 3, 2);
        Tensor target = wide(30, 3);
        Tensor f = head.q().matmul(head.k().t()).mul(head.beta()).softmax(1);
        Gradients chain = AttentionGradients.chain(head, o -> o.sub(target), f, Tensor.eye(30, DType.FLOAT64), 0);
        Gradients exact = AttentionGradients.exact(head, o -> o.sub(target));
        assertThat(gap(chain.dq(), exact.dq())).isLessThan(1e-13);
        assertThat(gap(chain.dk(), exact.dk())).isLessThan(1e-13);
        assertThat(gap(chain.dv(), exact.dv())).isLessThan(1e-13);
        assertThat(gap(chain.o(), exact.o())).isLessThan(1e-13);
    }

    private static double error(Head head, int degree) {
        Upstream upstream = o -> o;
        return LoraLimits.error(
                AttentionGradients.approximate(head, upstream, degree).dq(),
                AttentionGradients.exact(head, upstream).dq());
    }

    @Test
    @Card(value = "lora-limits", checks = 4)
    void errorsFallWithTheDegreeOnceItExceedsTheScores() {
        double[][] expected = {{0.43, 3e-4, 2e-6, 6e-9}, {2.7, 6e-2, 1e-2, 2e-3}};
        for (double[] row : expected) {
            Head head = bounded(200, row[0]);
            for (int i = 1; i <= 3; i++) {
                assertThat(error(head, 2 * i)).isBetween(row[i] / 10, row[i] * 10);
            }
        }
        Head large = bounded(200, 8);
        assertThat(error(large, 8)).isGreaterThan(0.05); // no degree below the scores helps
        double last = 0;
        for (double m : new double[] {0.2, 0.4, 0.8, 1.6}) {
            double now = error(bounded(200, m), 4);
            assertThat(now).isGreaterThan(last);
            last = now;
        }
    }

    @Test
    @Card(value = "lora-limits", checks = 5)
    void rowsOfTheApproximatePSumToZero() {
        Head head = head(50, 4, 3, 2.7);
        double root = Math.sqrt(head.beta());
        for (int degree : new int[] {2, 4}) {
            Tensor fq = AttentionGradients.features(head.q().mul(root), degree);
            Tensor v1 = AttentionGradients.features(head.k().mul(root), degree);
            Tensor u1 = fq.div(fq.matmul(v1.sum(0, false).unsqueeze(1)));
            Tensor c = wide(50, 3);
            Tensor o = u1.matmul(v1.t().matmul(head.v()));
            Tensor rho = c.mul(o).sum(1, true);
            Tensor ones = Tensor.ones(DType.FLOAT64, 50, 1);
            Tensor sums = AttentionGradients.times(u1, v1, head.v(), c, rho, ones);
            assertThat(sums.abs().max().item()).isLessThan(1e-12);
        }
    }

    /** A matrix of L by L would take 10 GB. Times are in the table that the diagnosis writes, for they depend on the machine. */
    @Test
    @Card(value = "lora-limits", checks = 6)
    void nothingOfLengthByLengthIsMade() {
        try (Grad off = Grad.off();
                Generator small = Generator.of(1)) {
            long length = 50_000;
            Tensor q = small.randn(length, 4).mul(0.2);
            Tensor k = small.randn(length, 4).mul(0.2);
            Head head = new Head(q, k, small.randn(length, 4), 0.5);
            Gradients made = AttentionGradients.approximate(head, o -> o, 2);
            assertThat(made.dq().shape()).containsExactly(length, 4);
            assertThat(made.dq().isFinite().all()).isTrue();
            assertThat(AttentionGradients.of(head, o -> o, 0.5).degree()).isEqualTo(2); // and it is chosen
        }
    }

    /** Losses of SGD on an attention's LoRAs, by gradients of some kind. */
    private List<Double> losses(double size, int degree, List<Integer> used) {
        try (Generator fixed = Generator.of(8);
                Grad off = Grad.off()) {
            g = fixed;
            Tensor x = wide(60, 6);
            Tensor target = wide(60, 3);
            List<Map3> maps = List.of(map(4, 6, size), map(4, 6, size), map(3, 6, 0.5));
            List<Double> losses = new ArrayList<>();
            for (int step = 0; step < 6; step++) {
                Head head = new Head(
                        maps.get(0).of(x, 1), maps.get(1).of(x, 1), maps.get(2).of(x, 1), 0.5);
                double[] loss = new double[1];
                Upstream upstream = o -> {
                    Tensor c = o.sub(target);
                    loss[0] = c.square().sum().mul(0.5).item();
                    return c;
                };
                Gradients made = degree == 0
                        ? AttentionGradients.exact(head, upstream)
                        : degree < 0
                                ? AttentionGradients.of(head, upstream, 1e-3)
                                : AttentionGradients.approximate(head, upstream, degree);
                used.add(made.degree());
                List<Tensor> of = List.of(made.dq(), made.dk(), made.dv());
                for (int i = 0; i < 3; i++) {
                    Map3 map = maps.get(i);
                    List<Tensor> factors = AttentionGradients.ofFactors(of.get(i), x, map.a(), map.b(), 1);
                    map.a().add_(factors.get(0), -2e-2);
                    map.b().add_(factors.get(1), -2e-2);
                }
                Tensor exact =
                        AttentionGradients.exact(head, o -> o.sub(target)).o();
                losses.add(exact.sub(target).square().sum().mul(0.5).item()); // the loss itself, however it was learnt
            }
            return losses;
        }
    }

    private static double deviation(List<Double> a, List<Double> b) {
        double most = 0;
        for (int i = 0; i < a.size(); i++) {
            most = Math.max(most, Math.abs(a.get(i) / b.get(i) - 1));
        }
        return most;
    }

    @Test
    @Card(value = "lora-limits", checks = 8)
    void smallScoresLearnAlikeAndLargeOnesFallBack() {
        List<Double> exact = losses(0.2, 0, new ArrayList<>());
        assertThat(exact.get(5)).isLessThan(0.95 * exact.get(0));
        assertThat(deviation(losses(0.2, 4, new ArrayList<>()), exact)).isLessThan(0.01);
        assertThat(deviation(losses(1.2, 4, new ArrayList<>()), losses(1.2, 0, new ArrayList<>())))
                .isGreaterThan(0.01);
        List<Integer> used = new ArrayList<>();
        assertThat(losses(1.2, -1, used)).isEqualTo(losses(1.2, 0, new ArrayList<>()));
        assertThat(used).containsOnly(0);
    }

    // ---- the meter

    /** Queries of four heads and keys of two, from x [.., 16]. */
    private static final class Net extends Module {
        final Linear q = child("q_proj", new Linear(16, 16, false, DType.FLOAT64));
        final Linear k = child("k_proj", new Linear(16, 8, false, DType.FLOAT64));
    }

    /** Γ, q's two parts, k's two parts, M. */
    private double[] measured(Tensor x, Tensor turn, double alpha, boolean moved) {
        Net net = new Net();
        AdaptedModel model = new AdaptedModel(net, List.of());
        try (Generator fixed = Generator.of(4);
                Grad off = Grad.off()) {
            g = fixed;
            net.q.weightParameter().tensor().copy_(wide(16, 16).matmul(turn));
            net.k.weightParameter().tensor().copy_(wide(8, 16).matmul(turn));
            var adapter = model.attach(
                    "a",
                    AdapterSpec.of(new Lora.Type(), Lora.Config.of(2, alpha), Targets.of("q_proj", "k_proj")),
                    new Seed(1));
            for (String path : List.of("q_proj", "k_proj")) {
                LowRank lora = adapter.lowRank(path);
                lora.a().tensor().copy_(wide(2, 16).matmul(turn));
                if (moved) {
                    lora.b().tensor().copy_(wide(lora.b().shape()));
                }
            }
            Tensor rows = x.matmul(turn);
            var before = net.q.substitute();
            try (AttentionMeter meter = new AttentionMeter(net.q, net.k, 4, 0.5)) {
                net.k.forward(rows);
                net.q.forward(rows);
                double[] q = meter.ofQueries();
                double[] k = meter.ofKeys();
                return new double[] {meter.gamma(), q[0], q[1], k[0], k[1], meter.bound()};
            } finally {
                assertThat(net.q.substitute()).isSameAs(before);
            }
        }
    }

    @Test
    @Card(value = "lora-limits", checks = 7)
    void theMeterMeasuresPartsThatScaleAndDoNotTurn() {
        Tensor x = wide(2, 9, 16);
        Tensor none = Tensor.eye(16, DType.FLOAT64);
        double[] once = measured(x, none, 2, true);
        double[] four = measured(x, none, 8, true);
        double[] still = measured(x, none, 2, false);
        double[] turned = measured(x, wide(16, 16).qr().get(0), 2, true);
        assertThat(four[2] / once[2]).isCloseTo(4, within(1e-12));
        assertThat(four[4] / once[4]).isCloseTo(4, within(1e-12));
        assertThat(four[1]).isEqualTo(once[1]);
        assertThat(still[2]).isZero();
        assertThat(still[4]).isZero();
        assertThat(still[0]).isEqualTo(Math.max(still[1], still[3]));
        for (int i = 0; i < once.length; i++) {
            assertThat(turned[i]).isCloseTo(once[i], within(1e-12 * once[i]));
        }
        assertThat(LoraLimits.hat(1, 4096)).isLessThan(LoraLimits.hat(1, 512));
        // no score is above M, and M not above E Γ²
        assertThat(once[5]).isLessThanOrEqualTo(4 * once[0] * once[0] + 1e-9);
    }

    @Test
    @Card(value = "lora-limits", checks = 7)
    void noScoreIsAboveTheBound() {
        Head head = head(40, 4, 3, 2);
        double largest = head.q().matmul(head.k().t()).abs().max().item() * head.beta();
        assertThat(largest).isCloseTo(2, within(1e-12));
        assertThat(head.bound()).isGreaterThanOrEqualTo(2);
    }

    private static Pretrained pretrained(String base) throws Exception {
        Path folder = Path.of(Objects.requireNonNull(LoraLimitsTest.class.getResource("/golden/peft/bases/" + base))
                .toURI());
        return Models.load(
                folder, base.equals("bert") ? Purpose.classification() : Purpose.causalLm(), LoadOptions.defaults());
    }

    private static List<Diagnosis.Pass> passes(Pretrained pretrained, int... lengths) {
        List<Diagnosis.Pass> passes = new ArrayList<>();
        for (int length : lengths) {
            int[] ids = new int[length];
            java.util.Arrays.setAll(ids, i -> 5 + (i * 7) % 20);
            passes.add(new Diagnosis.Pass(length, () -> pretrained.model().forward(Input.of(ids))));
        }
        return passes;
    }

    @Test
    void aReportHasARowForEachAttentionAndATableBesideIt() throws Exception {
        for (String base : List.of("llama", "bert")) {
            try (Pretrained pretrained = pretrained(base);
                    AdaptedModel model = AdaptedModel.of(pretrained.model())) {
                pretrained.model().train(false);
                model.attach(
                        "a",
                        AdapterSpec.of(
                                new Lora.Type(),
                                Lora.Config.of(2, 4),
                                base.equals("bert") ? Targets.of("query") : Targets.of("q_proj")),
                        new Seed(1));
                Config config = new Config(1e-2, List.of(16, 64), 2, 0.1);
                Report report = new LoraLimits().examine(config, model, passes(pretrained, 5, 9));
                assertThat(report.columns()).startsWith("attention", "gamma", "gamma_hat");
                assertThat(report.rows()).hasSize(2);
                for (List<?> row : report.rows()) {
                    assertThat((String) row.get(0)).contains(base.equals("bert") ? "attention.self" : "self_attn");
                    assertThat((double) row.get(1)).isPositive();
                    assertThat((double) row.get(2))
                            .isCloseTo((double) row.get(1) / Math.sqrt(Math.log(9)), within(1e-9));
                    assertThat((double) row.get(4)).isZero(); // B is 0
                    assertThat((double) row.get(6)).isZero(); // no adapter is there
                }
                assertThat(report.totals())
                        .containsEntry("texts", 2)
                        .containsEntry("longest", 9L)
                        .containsEntry("layers", 2);
                Report table = report.beside().values().iterator().next();
                assertThat(table.rows()).hasSize(2);
                assertThat(table.rows().get(1).get(7)).isEqualTo(64L * 64);
                assertThat(Double.parseDouble((String) table.rows().get(1).get(2)))
                        .isLessThan(1e-2);
                assertThat(new LoraLimits()
                                .examine(new Config(1e-2, List.of(), 2, 0.1), model, passes(pretrained, 5))
                                .beside())
                        .isEmpty();
            }
        }
    }

    @Test
    void badInputIsRefusedWithAReason() throws Exception {
        assertThatThrownBy(() -> new Config(0, List.of(), 4, 1))
                .hasMessage("eps must lie in (0, 1), found 0.0; try 1e-3");
        assertThatThrownBy(() -> new Config(1e-3, List.of(512, 2), 4, 1))
                .hasMessage("lengths must be at least 16 tokens, found 2; try 512");
        assertThatThrownBy(() -> new Config(1e-3, List.of(), 0, 1))
                .hasMessage("head must be at least 1, found 0; try 4");
        assertThatThrownBy(() -> new Config(1e-3, List.of(), 4, 6))
                .hasMessage("bound must lie in (0, 5], beyond which float32 is mostly rounding, found 6.0; try 0.43");
        assertThatThrownBy(() -> AttentionGradients.approximate(head(4, 2, 2, 1), o -> o, 3))
                .hasMessage("the degree must be even and at least 2, found 3; try 4");
        Config usual = Config.DEFAULT;
        Net net = new Net();
        AdaptedModel plain = new AdaptedModel(net, List.of());
        assertThatThrownBy(() -> new LoraLimits().examine(usual, plain))
                .hasMessage(
                        "lora-limits measures queries and keys on texts, and there are none; name a file with --data");
        assertThatThrownBy(() -> new LoraLimits().examine(usual, plain, List.of()))
                .hasMessageEndingWith("there are none; name a file with --data");
        assertThatThrownBy(() -> new LoraLimits().examine(usual, plain, List.of(new Diagnosis.Pass(1, () -> {}))))
                .hasMessage("the longest text has 1 tokens, and √(ln L) needs 2 or more; give longer texts");
        assertThatThrownBy(() -> new LoraLimits().examine(usual, plain, List.of(new Diagnosis.Pass(3, () -> {}))))
                .hasMessage("lora-limits needs a network that tells its heads; examine a pretrained model");
        try (Pretrained gpt2 = pretrained("gpt2");
                AdaptedModel model = AdaptedModel.of(gpt2.model())) {
            assertThatThrownBy(() -> new LoraLimits().examine(usual, model, passes(gpt2, 5)))
                    .hasMessage(
                            "the network has neither q_proj and k_proj nor query and key; lora-limits knows Llama's and BERT's families");
        }
    }
}
