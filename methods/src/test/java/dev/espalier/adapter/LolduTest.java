package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Fields;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.AdamW;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Sgd;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

@Card(value = "loldu", checks = 5) // merged, unmerged, counts; the export is below
class LolduTest extends AdapterContract {

    private static final Loldu.Type TYPE = new Loldu.Type();

    @Override
    protected AdapterSpec<?> spec() {
        return spec(Loldu.Config.of(3, 2));
    }

    private static AdapterSpec<?> spec(Loldu.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3;
    }

    private static Loldu on(Linear layer, Loldu.Config config) {
        return new Loldu(config, new Site("x", layer), new Seed(0));
    }

    private static Linear linear(Tensor weight) {
        Linear layer = new Linear((int) weight.size(1), (int) weight.size(0), false, weight.dtype());
        layer.weightParameter().tensor().copy_(weight);
        return layer;
    }

    private static Tensor random(long seed, long... shape) {
        try (Generator g = Generator.of(seed)) {
            return g.randn(shape).to(DType.FLOAT64);
        }
    }

    private static Tensor value(Adapter adapter, String name) {
        return adapter.parameters().get(name).tensor();
    }

    private static Tensor change(Loldu loldu) {
        return loldu.toLora().product().detach();
    }

    @Test
    @Card(value = "loldu", checks = 1)
    void theDecompositionGivesTheWeightBack() {
        for (long[] shape : new long[][] {{6, 6}, {9, 5}, {5, 9}, {1, 4}, {1300, 70}}) {
            Tensor w = random(1, shape);
            long k = Math.min(shape[0], shape[1]);
            List<Tensor> lu = w.lu();
            assertThat(gap(w.indexSelect(0, lu.get(0)), lu.get(1).matmul(lu.get(2))))
                    .isLessThan(1e-12);
            for (Tensor weight : List.of(w, w.to(DType.FLOAT32))) {
                Loldu.Ldu ldu = Loldu.Ldu.of(weight, k);
                Tensor product = ldu.b().mul(ldu.z0()).matmul(ldu.a());
                boolean wide = weight.dtype() == DType.FLOAT64;
                assertThat(gap(product, weight) / weight.abs().max().item()).isLessThan(wide ? 1e-12 : 1e-5);
                Tensor l = ldu.b().indexSelect(0, lu.get(0)); // the rows in the order of their elimination
                for (int i = 0; i < k; i++) {
                    assertThat(l.select(0, i).doubles()[i]).isEqualTo(1);
                    assertThat(ldu.a().select(0, i).doubles()[i]).isEqualTo(1);
                    assertThat(l.select(0, i).narrow(0, i, k - i).abs().sum().item())
                            .isEqualTo(1);
                    assertThat(ldu.a()
                                    .select(0, i)
                                    .narrow(0, 0, i + 1)
                                    .abs()
                                    .sum()
                                    .item())
                            .isEqualTo(1);
                }
                assertThat(ldu.b().abs().max().item()).isEqualTo(1);
                assertThat(ldu.guarded()).isZero();
            }
        }
    }

    @Test
    @Card(value = "loldu", checks = 2)
    void nothingChangesToTheBitAtFirstWhateverTheScale() {
        for (Loldu.Config config : List.of(
                Loldu.Config.of(3, 1), Loldu.Config.of(3, 777), Loldu.Config.of(8, 1), Loldu.Config.of(768, 1))) {
            Tiny net = new Tiny(DType.FLOAT32);
            Tensor before = run(net);
            AdaptedModel model = new AdaptedModel(net, net.heads());
            Attached adapter = model.attach("default", spec(config), new Seed(1));
            assertThat(run(net).equal(before)).isTrue();
            move(adapter, 0.3);
            assertThat(run(net).equal(before)).isFalse();
            model.disable();
            assertThat(run(net).equal(before)).isTrue();
        }
    }

    /** What is left when the first pivots are taken out is the Schur complement. */
    @Test
    @Card(value = "loldu", checks = 3)
    void theResidualIsTheSchurComplement() {
        Tensor w = random(2, 7, 6);
        Tensor order = w.lu().get(0);
        for (int r = 1; r <= 6; r++) {
            Loldu.Ldu ldu = Loldu.Ldu.of(w, r);
            Tensor residual = w.sub(ldu.b().mul(ldu.z0()).matmul(ldu.a()));
            assertThat(residual.narrow(1, 0, r).abs().max().item()).isLessThan(1e-12);
            assertThat(residual.indexSelect(0, order)
                            .narrow(0, 0, r)
                            .abs()
                            .max()
                            .item())
                    .isLessThan(1e-12);
            double[] values = residual.svdvals().doubles();
            for (int i = 0; i < 6; i++) {
                assertThat(values[i] > 1e-10)
                        .as("rank at r = %d, value %d", r, i)
                        .isEqualTo(i < 6 - r);
            }
        }
    }

    @Test
    @Card(value = "loldu", checks = 4)
    void onlyTheDiagonalHasAGradientAndItIsTheFormulas() {
        Linear layer = Gradients.layer();
        Loldu loldu = on(layer, Loldu.Config.of(3, 2));
        value(loldu, "loldu_delta").detach().copy_(random(3, 3));
        Tensor x = random(4, 6, 4);
        Tensor y = loldu.forward(x, new Base.Ground(layer));
        y.square().sum().backward();
        Tensor g = y.detach().mul(2).t().matmul(x); // dL/dW_eff [out, in]
        double s = 2.0 / 3;
        Tensor expected = value(loldu, "lora_B.weight")
                .t()
                .matmul(g)
                .mul(value(loldu, "lora_A.weight"))
                .sum(1, false)
                .mul(s);
        assertThat(gap(value(loldu, "loldu_delta").grad(), expected)).isLessThan(1e-10);
        loldu.parameters().forEach((name, p) -> assertThat(p.isTrainable()).isEqualTo(name.equals("loldu_delta")));
        assertThat(layer.weightParameter().tensor().grad()).isNull();
        Linear other = Gradients.layer();
        Loldu fresh = on(other, Loldu.Config.of(3, 2));
        double[] numeric = new double[3];
        for (int i = 0; i < 3; i++) {
            double[] delta = random(3, 3).doubles();
            double[] sides = new double[2];
            for (int side = 0; side < 2; side++) {
                double[] moved = delta.clone();
                moved[i] += side == 0 ? 1e-5 : -1e-5;
                try (Grad off = Grad.off()) {
                    value(fresh, "loldu_delta").copy_(Tensor.of(moved, 3));
                    sides[side] = fresh.forward(x, new Base.Ground(other))
                            .square()
                            .sum()
                            .item();
                }
            }
            numeric[i] = (sides[0] - sides[1]) / 2e-5;
        }
        assertThat(expected.doubles()).containsExactly(numeric, within(1e-4));
    }

    @Test
    @Card(value = "loldu", checks = 5)
    void theExportedLoraComputesTheSame(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        Tensor unmerged = run(net);
        var report = PeftFolder.exportLora(model, "default", folder, null, 0, Map.of());
        assertThat(report).allSatisfy(e -> assertThat(e.rank()).isEqualTo(3));
        model.remove("default");
        PeftFolder.load(model, folder, "plain", false);
        assertThat(gap(run(net), unmerged)).isLessThan(1e-9);
    }

    /**
     * The authors' weights after steps of theirs: {@code tools/golden/make_adapter_fixtures.py}. Their {@code uniform} moves z and
     * z0 alike, and must go the way of {@code lu}.
     */
    @Test
    @Card(value = "loldu", checks = 6)
    void itTakesTheAuthorsPathFromEveryStart() {
        Map<String, Object> fixture = Golden.json("adapters/loldu.json");
        double rate = Golden.number(fixture, "rate");
        for (Map<String, Object> one : Golden.list(fixture, "cases")) {
            int[] shape = Golden.ints(one, "shape");
            int r = Golden.ints(one, "r")[0];
            Linear layer = linear(Golden.tensor(one, "weight", shape[0], shape[1]));
            Tensor x = Golden.tensor(one, "x", 9, shape[1]);
            Tensor wanted = Golden.tensor(one, "wanted", 9, shape[0]);
            for (Map<String, Object> authors : Golden.list(one, "runs")) {
                Loldu.Start start = switch ((String) authors.get("start")) {
                    case "zeros" -> Loldu.Start.ZEROS;
                    case "ones" -> Loldu.Start.ONES;
                    default -> Loldu.Start.LU;
                };
                Loldu loldu = on(layer, Loldu.Config.of(r, 1.5).withStart(start));
                Parameter delta = loldu.parameters().get("loldu_delta");
                List<ParameterGroup> groups = List.of(new ParameterGroup("all", Map.of("delta", delta), 1, 0));
                Tensor weight = layer.weight();
                assertThat(gap(weight.add(change(loldu)), Golden.tensor(authors, "first", shape[0], shape[1])))
                        .isLessThan(3e-6);
                try (Optimizer optimizer = authors.get("rule").equals("sgd")
                        ? Sgd.Config.DEFAULT.create(groups)
                        : new AdamW.Config(0.9, 0.999, 1e-8, 0).create(groups)) {
                    for (int step = 0; step < 4; step++) {
                        loldu.forward(x, new Base.Ground(layer))
                                .sub(wanted)
                                .square()
                                .mean()
                                .backward();
                        optimizer.step(rate);
                        optimizer.zeroGrad();
                    }
                }
                assertThat(gap(weight.add(change(loldu)), Golden.tensor(authors, "last", shape[0], shape[1])))
                        .as("%s %s", authors.get("start"), authors.get("rule"))
                        .isLessThan(1e-5);
            }
        }
    }

    /** z enters linearly: the least squares in r unknowns, and descent gets there. */
    @Test
    @Card(
            value = "loldu",
            checks = {7, 9})
    void descentReachesTheLeastSquaresAndBeatsTheFrozenLayer() {
        Tensor w = random(5, 6, 5);
        Tensor target = random(6, 6, 5);
        Linear layer = linear(w);
        Loldu loldu = on(layer, Loldu.Config.of(4, 4));
        Tensor a = value(loldu, "lora_A.weight");
        Tensor b = value(loldu, "lora_B.weight");
        // ‖W + Σ δ_i b_i a_iᵀ - T‖²: normal equations with the Gram matrix (BᵀB) ∘ (A Aᵀ)
        Tensor gram = b.t().matmul(b).mul(a.matmul(a.t()));
        Tensor right = b.t().matmul(target.sub(w)).mul(a).sum(1, true);
        Tensor best = gram.solve(right).view(4);
        Tensor delta = value(loldu, "loldu_delta");
        double least = target.sub(w).sub(b.mul(best).matmul(a)).square().sum().item();
        double rate = 0.9 / gram.eigh().get(0).max().item();
        double loss = 0;
        double frozen = target.sub(w).square().sum().item();
        for (int step = 0; step < 4000; step++) {
            try (Scope scope = Scope.open()) {
                Tensor miss = loldu.merge(Base.Affine.of(layer)).weight().sub(target);
                Tensor each = miss.square().sum();
                loss = each.item();
                each.backward();
                delta.detach().add_(delta.grad(), -rate);
                delta.clearGrad();
            }
        }
        assertThat(loss).isCloseTo(least, within(1e-6)).isLessThan(0.95 * frozen);
        // Its updates are some of LoRA's of that rank, whose optimum is the rest of the singular values.
        double[] values = target.sub(w).svdvals().doubles();
        assertThat(least).isGreaterThanOrEqualTo(values[4] * values[4]);
    }

    @Test
    @Card(value = "loldu", checks = 8)
    void aWeightWithoutFullRankIsDecomposedToo() {
        Tensor w = random(7, 6, 5);
        Tensor rows = Tensor.of(new long[] {0, 1, 2, 2, 4, 0}, 6);
        Tensor twice = w.indexSelect(0, rows).clone();
        twice.narrow(1, 0, 1).zero_(); // a column of zeros first, so that even the first pivot is
        for (Tensor weight : List.of(twice, twice.zerosLike())) {
            Loldu.Ldu ldu = Loldu.Ldu.of(weight, 5);
            assertThat(ldu.guarded()).isPositive();
            assertThat(ldu.a().isFinite().all() && ldu.b().isFinite().all()).isTrue();
            assertThat(gap(ldu.b().mul(ldu.z0()).matmul(ldu.a()), weight)).isLessThan(1e-10);
            Linear layer = linear(weight);
            Loldu loldu = on(layer, Loldu.Config.of(5, 2));
            Tensor x = random(8, 3, 5);
            assertThat(loldu.forward(x, new Base.Ground(layer)).equal(layer.compute(x)))
                    .isTrue();
        }
    }

    /** Files without A and B are a few numbers a layer, and refuse another weight. */
    @Test
    void savedWithoutFramesItFindsThemAgain(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(Loldu.Config.of(3, 2).withSaveFrames(false)), new Seed(1)), 0.3);
        Tensor adapted = run(net);
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        model.remove("default");
        assertThat(folder.resolve("adapter_model.safetensors").toFile().length())
                .isLessThan(2000);
        PeftFolder.load(model, folder, null, false);
        assertThat(run(net).equal(adapted)).isTrue();
        model.remove("default");
        net.layers.get(1).fc.weightParameter().tensor().add_(random(9, 10, 8).to(DType.FLOAT32));
        assertThatThrownBy(() -> PeftFolder.load(model, folder, null, false))
                .hasMessageEndingWith(
                        "the weight of layers.1.fc does not fall into the parts that the adapter was"
                                + " trained with; use the base model it was trained on, or save it there with save_frames: true");
    }

    @Test
    void badInputIsRefusedWithAReason() {
        assertThatThrownBy(() -> Loldu.Config.of(0, 1)).hasMessage("r must be at least 1, found 0; try 768");
        assertThatThrownBy(() -> Loldu.Config.of(3, Double.NaN))
                .hasMessage("lora_alpha must be positive and finite, found NaN; try the rank");
        assertThatThrownBy(() -> TYPE.read(Fields.of("recipe", Map.of("init_method", "uniform"))))
                .hasMessageContaining("init_method")
                .hasMessageContaining("one of lu, ones, zeros, s_uniform, s_normal");
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        assertThatThrownBy(() -> model.attach(
                        "a", AdapterSpec.of(TYPE, Loldu.Config.of(2, 2), Targets.of("embed_tokens")), new Seed(1)))
                .hasMessageStartingWith("embed_tokens is an embedding");
        assertThat(Catalog.describe(TYPE)).contains("Our reading: ", "init_method");
    }
}
