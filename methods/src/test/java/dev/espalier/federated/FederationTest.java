package dev.espalier.federated;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.adapter.Lora;
import dev.espalier.data.Encoding;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.Sgd;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** FedSVD, FFA-LoRA and FedAvg on the one loop. */
class FederationTest {

    private static final List<Encoding> TRAIN = ToyFederation.examples(240, 21);
    private static final List<Encoding> TEST = ToyFederation.examples(400, 22);

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    private static Federation.Config config(int rounds, double learningRate, double epsilon) {
        return new Federation.Config(4, 0.5, rounds, 4, 16, 8, learningRate, 1, epsilon, 1e-5, 1);
    }

    private static List<List<Encoding>> dealt() {
        return DirichletSplit.of(TRAIN, Encoding::label, 4, 1, new Seed(5));
    }

    private static final double CLIPPED_ONLY = Double.POSITIVE_INFINITY;

    /** Product unchanged, rows orthonormal, columns of B orthogonal and falling; zeros leave the row space. */
    @Test
    @Card(
            value = "fedsvd",
            checks = {1})
    void refactorisationKeepsTheProduct() {
        ToyFederation toy = new ToyFederation(3);
        randomB(toy);
        Tensor before = toy.product("fc");
        FedSvd.refactorise(toy.adapter.lowRank("fc"));
        assertThat(toy.product("fc").sub(before).norm().item())
                .isLessThan(1e-12 * before.norm().item());
        assertThat(ToyFederation.gap(gram(toy.a("fc").t()), Tensor.eye(3, DType.FLOAT64)))
                .isLessThan(1e-12);
        Tensor b = gram(toy.b("fc"));
        double[] diagonal = new double[3];
        for (int i = 0; i < 3; i++) {
            diagonal[i] = b.select(0, i).select(0, i).item();
            for (int j = 0; j < i; j++) {
                assertThat(b.select(0, i).select(0, j).item()).isCloseTo(0, within(1e-12));
            }
        }
        assertThat(diagonal[0]).isGreaterThan(diagonal[1]);
        assertThat(diagonal[1]).isGreaterThan(diagonal[2]);

        ToyFederation fresh = new ToyFederation(3); // B = 0
        Tensor rowSpace = projector(fresh.a("out"));
        FedSvd.refactorise(fresh.adapter.lowRank("out"));
        assertThat(ToyFederation.gap(gram(fresh.a("out").t()), Tensor.eye(3, DType.FLOAT64)))
                .isLessThan(1e-12);
        assertThat(ToyFederation.gap(projector(fresh.a("out")), rowSpace)).isLessThan(1e-12);
        assertThat(fresh.b("out").abs().max().item()).isZero();
    }

    private static void randomB(ToyFederation toy) {
        try (Grad off = Grad.off();
                Generator g = Generator.of(9)) {
            for (String path : List.of("fc", "out")) {
                Tensor b = toy.adapter.lowRank(path).b().tensor();
                b.copy_(g.randn(b.shape()));
            }
        }
    }

    /** Xᵀ X. */
    private static Tensor gram(Tensor x) {
        return x.t().matmul(x);
    }

    /** Onto the row space of A [r, in]. */
    private static Tensor projector(Tensor a) {
        Tensor q = a.t().qr().get(0);
        return q.matmul(q.t());
    }

    @Test
    @Card(
            value = "fedsvd",
            checks = {2})
    void theRowSpaceNeverChanges() {
        ToyFederation toy = new ToyFederation(3);
        Tensor fc = projector(toy.a("fc"));
        Tensor out = projector(toy.a("out"));
        Federation federation = toy.federation(
                config(5, 0.5, 8), toy.server(new FedSvd(), FedSvd.Config.DEFAULT), dealt(), Sgd.Config.DEFAULT);
        for (int i = 0; i < 5; i++) {
            federation.next();
        }
        assertThat(toy.product("fc").norm().item()).isGreaterThan(1e-2);
        assertThat(ToyFederation.gap(projector(toy.a("fc")), fc)).isLessThan(1e-12);
        assertThat(ToyFederation.gap(projector(toy.a("out")), out)).isLessThan(1e-12);
    }

    /**
     * After the first refactorisation FedSVD with plain descent is FFA-LoRA from there: the clipped sum turns with A, whatever
     * the basis. AdamW looks at single coordinates, and leaves the path.
     */
    @Test
    @Card(
            value = "fedsvd",
            checks = {3})
    void withPlainDescentItFollowsFfaWithOrthonormalA() {
        assertThat(distanceFromFfa(Sgd.Config.DEFAULT, 0.5)).isLessThan(1e-12);
        assertThat(distanceFromFfa(AdamW.Config.DEFAULT, 0.02)).isGreaterThan(1e-4);
    }

    private static double distanceFromFfa(Optimizer.Config optimizer, double learningRate) {
        Federation.Config config = config(4, learningRate, CLIPPED_ONLY);
        ToyFederation svd = new ToyFederation(3);
        ToyFederation ffa = new ToyFederation(3);
        Federation one = svd.federation(config, svd.server(new FedSvd(), new FedSvd.Config(1, 0)), dealt(), optimizer);
        Federation two = ffa.federation(config, ffa.server(new FfaLora(), new FfaLora.Config()), dealt(), optimizer);
        one.next();
        two.next();
        try (Grad off = Grad.off()) {
            for (String path : List.of("fc", "out")) {
                ffa.adapter.lowRank(path).a().tensor().copy_(svd.a(path));
                ffa.adapter.lowRank(path).b().tensor().copy_(svd.b(path));
            }
        }
        for (int i = 0; i < 3; i++) {
            one.next();
            two.next();
        }
        return Math.max(
                ToyFederation.gap(svd.product("fc"), ffa.product("fc")),
                ToyFederation.gap(svd.product("out"), ffa.product("out")));
    }

    /** Means of factors are no mean of products, unless one factor is common. */
    @Test
    @Card(
            value = "fedsvd",
            checks = {8})
    @Card(
            value = "fedavg",
            checks = {8})
    @Card(
            value = "ffa-lora",
            checks = {8})
    void averagesOfFactorsAndOfProducts() {
        assertThat(productGap(new FedAvg(), new FedAvg.Config())).isGreaterThan(1e-3);
        assertThat(productGap(new FfaLora(), new FfaLora.Config())).isLessThan(1e-12);
        assertThat(productGap(new FedSvd(), FedSvd.Config.DEFAULT)).isLessThan(1e-12);
    }

    private static <C> double productGap(FederatedRule<C> rule, C settings) {
        ToyFederation toy = new ToyFederation(3);
        FederatedRule.Server server = toy.server(rule, settings);
        Tensor[] mean = {Tensor.zeros(DType.FLOAT64, 16, 12)};
        FederatedRule.Server watched = new FederatedRule.Server() {
            @Override
            public java.util.Map<String, dev.espalier.nn.Parameter> trained() {
                return server.trained();
            }

            @Override
            public void aggregate(List<FederatedRule.Upload> uploads) {
                for (FederatedRule.Upload upload : uploads) {
                    Tensor b = upload.values().get("base_model.model.fc.lora_B.weight");
                    Tensor a = upload.values().getOrDefault("base_model.model.fc.lora_A.weight", toy.a("fc"));
                    mean[0].add_(b.matmul(a), upload.weight());
                }
                server.aggregate(uploads);
            }

            @Override
            public void afterRound(int round) {
                server.afterRound(round);
            }
        };
        toy.federation(config(1, 1, 0), watched, dealt(), Sgd.Config.DEFAULT).next();
        return ToyFederation.gap(toy.product("fc"), mean[0]);
    }

    @Test
    void oneSeedDecidesEverything() {
        assertThat(trajectory(6)).isEqualTo(trajectory(6));
        assertThat(trajectory(0)).isEqualTo(trajectory(0));
    }

    private static String trajectory(double epsilon) {
        ToyFederation toy = new ToyFederation(Lora.Config.of(3, 3).withDropout(0.1));
        Federation federation = toy.federation(
                config(2, 0.5, epsilon), toy.server(new FedSvd(), FedSvd.Config.DEFAULT), dealt(), Sgd.Config.DEFAULT);
        return List.of(federation.next(), federation.next())
                + java.util.Arrays.toString(toy.product("fc").doubles());
    }

    /** Two of four clients a round; ε grows for who takes part, and stays within what was asked for. */
    @Test
    void epsilonGrowsAndStaysWithinItsBound() {
        ToyFederation toy = new ToyFederation(3);
        Federation federation = toy.federation(
                config(6, 0.5, 3), toy.server(new FfaLora(), new FfaLora.Config()), dealt(), Sgd.Config.DEFAULT);
        assertThat(federation.sigmas()).hasSize(4).allSatisfy(s -> assertThat(s).isPositive());
        double before = 0;
        for (int i = 0; i < 6; i++) {
            Federation.Round round = federation.next();
            assertThat(round.clients()).hasSize(2).isSorted();
            assertThat(round.epsilon()).isGreaterThanOrEqualTo(before).isLessThanOrEqualTo(3);
            before = round.epsilon();
        }
        assertThat(before).isGreaterThan(1);
    }

    /** Only what the rule trains moves, and a physical batch of 8 makes no difference to one of 100. */
    @Test
    void onlyBMovesAndBatchesMayBeCut() {
        ToyFederation whole = run(100);
        ToyFederation cut = run(8);
        assertThat(ToyFederation.gap(whole.product("fc"), cut.product("fc"))).isLessThan(1e-12);
        assertThat(whole.a("fc").equal(new ToyFederation(3).a("fc"))).isTrue();
        assertThat(whole.product("fc").norm().item()).isPositive();
    }

    private static ToyFederation run(int physical) {
        ToyFederation toy = new ToyFederation(3);
        Federation.Config config = new Federation.Config(4, 1, 1, 3, 40, physical, 0.5, 1, 6, 1e-5, 1);
        toy.federation(config, toy.server(new FfaLora(), new FfaLora.Config()), dealt(), Sgd.Config.DEFAULT)
                .next();
        return toy;
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> new Federation.Config(0, 0.5, 1, 1, 1, 1, 1, 1, 6, 1e-5, 1))
                .hasMessage("clients must be at least 1, found 0; try 6");
        assertThatThrownBy(() -> new Federation.Config(1, 0, 1, 1, 1, 1, 1, 1, 6, 1e-5, 1))
                .hasMessage("fraction must lie in (0, 1], found 0.0; try 0.5");
        assertThatThrownBy(() -> new Federation.Config(1, 1, 1, 1, 1, 1, 1, 0, 6, 1e-5, 1))
                .hasMessage("clip must be above 0 and finite, found 0.0; try 2");
        assertThatThrownBy(() -> new Federation.Config(1, 1, 1, 1, 1, 1, 1, 1, Double.NaN, 1e-5, 1))
                .hasMessage("epsilon must be above 0, or 0 for no privacy, found NaN; try 6");
        assertThatThrownBy(() -> new Federation.Config(1, 1, 1, 1, 1, 1, 1, 1, 6, 1, 1))
                .hasMessage("delta must lie in (0, 1), found 1.0; try 1e-5");
        assertThatThrownBy(() -> new FedSvd.Config(-1, 0))
                .hasMessage("period must be at least 1 round, or 0 for never, found -1; try 1");
        ToyFederation toy = new ToyFederation(Lora.Config.of(2, 2).withInit("pissa"));
        assertThatThrownBy(() -> toy.federation(
                        config(1, 1, 0), toy.server(new FedAvg(), new FedAvg.Config()), dealt(), Sgd.Config.DEFAULT))
                .hasMessage(
                        "a federation starts lora with B at zero, found another start (pissa); leave init_lora_weights out");
        ToyFederation other = new ToyFederation(2);
        assertThatThrownBy(() -> other.federation(
                        config(1, 1, 0),
                        other.server(new FedAvg(), new FedAvg.Config()),
                        List.of(TRAIN, TRAIN, TRAIN, List.of()),
                        Sgd.Config.DEFAULT))
                .hasMessage("client 4 of 4 has no data; give it some, or lower clients");
    }

    /**
     * At one rate for all, on clients of uneven labels, three seeds: noise on both factors ends near chance (0.25) where B alone
     * still learns, and what orthonormal rows bring is more under more noise. At a rate of its own FedAvg learns here too.
     */
    @Test
    @Card(
            value = "fedsvd",
            checks = {9})
    void noiseOnBothFactorsCostsMost() {
        double average = accuracy(new FedAvg(), new FedAvg.Config(), 2);
        double fixed = accuracy(new FfaLora(), new FfaLora.Config(), 2);
        double orthonormal = accuracy(new FedSvd(), FedSvd.Config.DEFAULT, 2);
        assertThat(fixed).isGreaterThan(average + 0.1);
        assertThat(orthonormal).isGreaterThan(fixed + 0.02);
        double fixedAtMore = accuracy(new FfaLora(), new FfaLora.Config(), 30);
        double orthonormalAtMore = accuracy(new FedSvd(), FedSvd.Config.DEFAULT, 30);
        assertThat(orthonormalAtMore).isGreaterThanOrEqualTo(fixedAtMore);
        assertThat(orthonormal - fixed).isGreaterThan(orthonormalAtMore - fixedAtMore);
    }

    /** Mean over three seeds after 20 rounds of one step on whole clients. */
    private static <C> double accuracy(FederatedRule<C> rule, C settings, double epsilon) {
        double sum = 0;
        for (int seed = 0; seed < 3; seed++) {
            try (Scope own = Scope.open()) {
                ToyFederation toy = new ToyFederation(4);
                Federation federation = new Federation(
                        new Federation.Config(3, 1, 20, 1, 1000, 1000, 15, 1, epsilon, 1e-5, 1),
                        toy.server(rule, settings),
                        toy.adapter,
                        toy.task,
                        DirichletSplit.of(ToyFederation.examples(600, 21), Encoding::label, 3, 1, new Seed(seed)),
                        0,
                        Sgd.Config.DEFAULT,
                        new Seed(seed));
                for (int i = 0; i < 20; i++) {
                    federation.next();
                }
                sum += toy.accuracy(TEST);
            }
        }
        return sum / 3;
    }
}
