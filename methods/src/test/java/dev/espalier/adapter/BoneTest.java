package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class BoneTest extends AdapterContract {

    private static final Bone.Type TYPE = new Bone.Type();
    private static final Targets TARGETS = Targets.of("fc", "proj");

    /** MiSS with a width that divides neither 8 nor 10. */
    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(TYPE, Bone.Config.of("true", 3), TARGETS);
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * out;
    }

    @Nested
    class MiniTest extends AdapterContract {
        @Override
        protected AdapterSpec<?> spec() {
            return AdapterSpec.of(TYPE, Bone.Config.of("mini", 3).withMiniR(2), TARGETS);
        }

        @Override
        protected long parameters(long out, long in) {
            return 3 * 2;
        }
    }

    @Nested
    class BatTest extends AdapterContract {
        @Override
        protected AdapterSpec<?> spec() {
            return AdapterSpec.of(TYPE, Bone.Config.of("bat", 2), TARGETS);
        }

        @Override
        protected long parameters(long out, long in) {
            return 2 * out;
        }
    }

    private final Generator generator = Generator.of(11);

    private Tensor randn(long... shape) {
        return generator.randn(shape).to(DType.FLOAT64);
    }

    private Linear linear(long in, long out) {
        Linear layer = new Linear(in, out, true, DType.FLOAT64);
        layer.weightParameter().tensor().copy_(randn(out, in));
        layer.biasParameter().tensor().copy_(randn(out));
        return layer;
    }

    private static Adapter on(Linear layer, Bone.Config config) {
        return TYPE.create(config, List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x");
    }

    private static Tensor block(Adapter adapter) {
        return adapter.parameters().get("miss_block").tensor();
    }

    /** An adapter whose matrix is random, by a tenth. */
    private Adapter moved(Linear layer, Bone.Config config) {
        Adapter adapter = on(layer, config);
        Tensor block = block(adapter).detach();
        block.copy_(randn(block.shape()).mul(0.1));
        return adapter;
    }

    private static Tensor change(Adapter adapter, Linear layer) {
        Base.Affine ground = new Base.Ground(layer).affine();
        return ((Mergeable) adapter).merge(ground).weight().sub(layer.weight()).detach();
    }

    /** Equal to the last bit, and unlike LoRA's A every trained number has a gradient. */
    @Test
    @Card(value = "bone", checks = 1)
    void everyFormStartsAtZeroWithAGradient() {
        Linear layer = linear(6, 4);
        Tensor x = randn(5, 6);
        for (Bone.Config config :
                List.of(Bone.Config.of("true", 4), Bone.Config.of("mini", 3).withMiniR(2), Bone.Config.of("bat", 2))) {
            Adapter adapter = on(layer, config);
            Tensor y = adapter.forward(x, new Base.Ground(layer));
            assertThat(gap(y, layer.compute(x))).as(config.init()).isLessThan(1e-14);
            y.square().sum().backward();
            assertThat(block(adapter).grad().eq(0).any()).as(config.init()).isFalse();
        }
    }

    /** MiSS is LoRA with the frozen A = E and B = Dᵀ at s = 1, where r divides in and where not. */
    @Test
    @Card(value = "bone", checks = 2)
    void missIsALoraWithAFixedA() {
        for (int r : new int[] {3, 4}) {
            Linear layer = linear(6, 4);
            Tensor x = randn(2, 5, 6);
            Adapter miss = moved(layer, Bone.Config.of("true", r));
            Lora lora = new Lora(Lora.Config.of(r, r), new Site("x", layer), new Seed(0));
            double[] e = new double[r * 6];
            for (int c = 0; c < 6; c++) {
                e[(c % r) * 6 + c] = 1;
            }
            lora.a().tensor().detach().copy_(Tensor.of(e, r, 6));
            lora.b().tensor().detach().copy_(block(miss).detach().t());
            Tensor ours = miss.forward(x, new Base.Ground(layer));
            Tensor theirs = lora.forward(x, new Base.Ground(layer));
            assertThat(gap(ours, theirs)).isLessThan(1e-13);
            ours.square().sum().backward();
            theirs.square().sum().backward();
            assertThat(gap(block(miss).grad(), lora.b().tensor().grad().t())).isLessThan(1e-11);
            LoraFactors exact = ((LoraExpressible) miss).toLora();
            assertThat(exact.scale()).isEqualTo(1);
            assertThat(exact.a().equal(lora.a().tensor().detach())).isTrue();
            assertThat(gap(exact.b().matmul(exact.a()), change(miss, layer))).isLessThan(1e-13);
        }
    }

    @Test
    @Card(value = "bone", checks = 3)
    void miniIsAMissOfRepeatedColumns() {
        Linear layer = linear(6, 6);
        Tensor x = randn(5, 6);
        Adapter whole = moved(layer, Bone.Config.of("mini", 4).withMiniR(6));
        Adapter miss = on(layer, Bone.Config.of("true", 4));
        block(miss).detach().copy_(block(whole).detach());
        Base base = new Base.Ground(layer);
        assertThat(gap(whole.forward(x, base), miss.forward(x, base))).isLessThan(1e-14);

        Adapter mini = moved(layer, Bone.Config.of("mini", 3).withMiniR(3));
        Tensor change = change(mini, layer);
        for (long i = 0; i < 6; i += 3) {
            for (long j = 0; j < 6; j += 3) {
                assertThat(gap(
                                change.narrow(0, i, 3).narrow(1, j, 3),
                                block(mini).detach().t()))
                        .isLessThan(1e-14);
            }
        }
        Adapter repeated = on(layer, Bone.Config.of("true", 3));
        block(repeated).detach().copy_(block(mini).detach().repeat(1, 2));
        mini.forward(x, base).square().sum().backward();
        repeated.forward(x, base).square().sum().backward();
        Tensor copies = block(repeated).grad();
        assertThat(gap(block(mini).grad(), copies.narrow(1, 0, 3).add(copies.narrow(1, 3, 3))))
                .isLessThan(1e-11);
    }

    /** W_ij b_i + b_i, block by block, with more blocks one way than the other. */
    @Test
    @Card(value = "bone", checks = 4)
    void batIsTheLoopOverBlocks() {
        Linear layer = linear(6, 4);
        Adapter bat = moved(layer, Bone.Config.of("bat", 2));
        Tensor change = change(bat, layer);
        for (int i = 0; i < 2; i++) {
            Tensor b = block(bat).detach().select(0, i);
            for (int j = 0; j < 3; j++) {
                Tensor w = layer.weight().narrow(0, 2L * i, 2).narrow(1, 2L * j, 2);
                Tensor found = change.narrow(0, 2L * i, 2).narrow(1, 2L * j, 2);
                assertThat(gap(found, w.matmul(b).add(b))).isLessThan(1e-14);
            }
        }
        layer.weightParameter().tensor().zero_();
        Adapter miss = on(layer, Bone.Config.of("true", 2));
        Tensor d = block(miss).detach();
        for (int i = 0; i < 2; i++) {
            d.narrow(1, 2L * i, 2).copy_(block(bat).detach().select(0, i).t());
        }
        assertThat(gap(change(miss, layer), change(bat, layer))).isLessThan(1e-14);
    }

    @Test
    @Card(value = "bone", checks = 5)
    void ranksAndRepeatedColumns() {
        Linear layer = linear(8, 12);
        Tensor miss = change(moved(layer, Bone.Config.of("true", 4)), layer);
        Tensor mini = change(moved(layer, Bone.Config.of("mini", 4).withMiniR(2)), layer);
        Tensor bat = change(moved(layer, Bone.Config.of("bat", 4)), layer);
        assertThat(rank(miss)).isEqualTo(4);
        assertThat(rank(mini)).isEqualTo(2);
        assertThat(rank(bat)).isEqualTo(8);
        assertThat(gap(miss.narrow(1, 0, 4), miss.narrow(1, 4, 4))).isLessThan(1e-14);
        assertThat(gap(bat.narrow(1, 0, 4), bat.narrow(1, 4, 4))).isGreaterThan(0.01);
    }

    private static int rank(Tensor t) {
        double[] s = t.svd().get(1).doubles();
        return (int) java.util.Arrays.stream(s).filter(v -> v > 1e-9 * s[0]).count();
    }

    /** Merged and unmerged outputs are the contract's; here the inverse W_ij = (W'_ij - b_i) (I + b_i)⁻¹, for r = 2 by hand. */
    @Test
    @Card(value = "bone", checks = 6)
    void batCanBeTakenOutOfTheMergedWeight() {
        Linear layer = linear(6, 4);
        Adapter bat = moved(layer, Bone.Config.of("bat", 2));
        Tensor merged = ((Mergeable) bat)
                .merge(new Base.Ground(layer).affine())
                .weight()
                .detach();
        for (int i = 0; i < 2; i++) {
            double[] b = block(bat).detach().select(0, i).contiguous().doubles();
            double p = 1 + b[0];
            double s = 1 + b[3];
            double det = p * s - b[1] * b[2];
            Tensor inverse = Tensor.of(new double[] {s / det, -b[1] / det, -b[2] / det, p / det}, 2, 2);
            for (int j = 0; j < 3; j++) {
                Tensor there = merged.narrow(0, 2L * i, 2).narrow(1, 2L * j, 2);
                Tensor back = there.sub(Tensor.of(b, 2, 2)).matmul(inverse);
                assertThat(gap(back, layer.weight().narrow(0, 2L * i, 2).narrow(1, 2L * j, 2)))
                        .isLessThan(1e-13);
            }
        }
    }

    /** LLaMA2-7B at r = 64, all linears: 64 · 32 · 42,496 = 87.0 million; here with one of 32 layers at a 16th of the widths. */
    @Test
    @Card(value = "bone", checks = 7)
    void countsAreThoseOfTheCard() {
        long sum = 0;
        for (long[] shape :
                new long[][] {{256, 256}, {256, 256}, {256, 256}, {256, 256}, {256, 688}, {256, 688}, {688, 256}}) {
            Linear layer = new Linear(shape[0], shape[1], false, DType.FLOAT32);
            sum += block(on(layer, Bone.Config.of("true", 64))).numel();
        }
        assertThat(sum * 16 * 32).isEqualTo(64L * 32 * 42_496).isEqualTo(87_031_808);
        Linear layer = linear(6, 4);
        assertThat(block(on(layer, Bone.Config.of("true", 4))).shape()).containsExactly(4, 4);
        assertThat(block(on(layer, Bone.Config.of("mini", 3).withMiniR(2))).shape())
                .containsExactly(3, 2);
        assertThat(block(on(layer, Bone.Config.of("bat", 2))).shape()).containsExactly(2, 2, 2);
    }

    /** With G = dL/dW': dL/db_i = Σ_j (W_ij + I)ᵀ G_ij, and for MiSS dL/dD[:, block i]ᵀ = Σ_j G_ij. */
    @Test
    @Card(value = "bone", checks = 8)
    void gradientsAreThoseOfTheDenseWeight() {
        Linear layer = linear(6, 4);
        Tensor x = randn(5, 6);
        for (boolean start : new boolean[] {true, false}) {
            for (String form : List.of("bat", "true")) {
                Adapter adapter = start ? on(layer, Bone.Config.of(form, 2)) : moved(layer, Bone.Config.of(form, 2));
                adapter.forward(x, new Base.Ground(layer)).square().sum().backward();
                Tensor dense = layer.weight().add(change(adapter, layer)).requiresGrad_(true);
                x.linear(dense, layer.biasParameter().tensor()).square().sum().backward();
                for (int i = 0; i < 2; i++) {
                    Tensor expected = Tensor.zeros(DType.FLOAT64, 2, 2);
                    for (int j = 0; j < 3; j++) {
                        Tensor g = dense.grad().narrow(0, 2L * i, 2).narrow(1, 2L * j, 2);
                        Tensor w = layer.weight().narrow(0, 2L * i, 2).narrow(1, 2L * j, 2);
                        Tensor factor = w.add(Tensor.eye(2, DType.FLOAT64)).t();
                        expected.add_(form.equals("bat") ? factor.matmul(g) : g);
                    }
                    Tensor found = form.equals("bat")
                            ? block(adapter).grad().select(0, i)
                            : block(adapter).grad().narrow(1, 2L * i, 2).t();
                    assertThat(gap(found, expected)).as(form).isLessThan(1e-11);
                    assertThat(expected.abs().max().item()).isGreaterThan(0.1);
                }
            }
        }
    }

    /** Bat works on what lies below it, as in PEFT; MiSS only adds. */
    @Test
    @Card(value = "bone", checks = 9)
    void theOrderOfTwoBatsCounts() {
        Linear layer = linear(6, 4);
        Tensor x = randn(5, 6);
        for (String form : List.of("bat", "true")) {
            Adapter one = moved(layer, Bone.Config.of(form, 2));
            Adapter two = moved(layer, Bone.Config.of(form, 2));
            Base ground = new Base.Ground(layer);
            Tensor there = two.forward(x, new Base.Link(one, ground));
            Tensor back = one.forward(x, new Base.Link(two, ground));
            assertThat(gap(there, back) > 1e-3).as(form).isEqualTo(form.equals("bat"));
            assertThat(gap(there, back) < 1e-13).as(form).isEqualTo(form.equals("true"));
        }
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> on(layer, Bone.Config.of("false", 3)));
    }

    @Test
    void dropoutIsOfTheInputWhileTraining() {
        Linear layer = linear(6, 4);
        Tensor x = randn(5, 6);
        Adapter miss = moved(layer, Bone.Config.of("true", 4).withDropout(1 - 1e-12));
        layer.train(true);
        assertThat(gap(miss.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isZero();
        layer.train(false);
        assertThat(gap(miss.forward(x, new Base.Ground(layer)), layer.compute(x)))
                .isGreaterThan(0.01);
    }

    /** What PEFT wrote before it renamed the type: BONE, bone_block, and no key of mini or dropout. */
    @Test
    void filesOfTheFormerTypeAreRead(@TempDir Path temporary) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Path folder = temporary.resolve("bone");
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        PeftFolder.save(model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of());
        Tensor expected = run(net);
        model.remove("default");
        Map<String, Object> config = new LinkedHashMap<>(PeftFolder.config(folder));
        config.put("peft_type", "BONE");
        config.keySet().removeAll(List.of("mini_r", "miss_dropout"));
        Json.write(folder.resolve("adapter_config.json"), config);
        Map<String, Tensor> renamed = new LinkedHashMap<>();
        try (TensorSource file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
            file.tensors()
                    .keySet()
                    .forEach(key -> renamed.put(
                            key.replace("miss_", "bone_"), file.read(key).clone()));
        }
        Safetensors.write(folder.resolve("adapter_model.safetensors"), renamed);

        PeftFolder.load(model, folder, "old", false);
        assertThat(run(net).equal(expected)).isTrue();
        PeftFolder.save(model, "old", temporary.resolve("again"), null, PeftFolder.Form.PLAIN, Map.of());
        assertThat(PeftFolder.config(temporary.resolve("again").resolve("old"))).containsEntry("peft_type", "MISS");
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> Bone.Config.of("true", 0)).hasMessage("r must be at least 1, found 0; try 64");
        assertThatThrownBy(() -> Bone.Config.of("true", 4).withMiniR(0))
                .hasMessage("mini_r must be at least 1, found 0; try 8");
        assertThatThrownBy(() -> Bone.Config.of("true", 4).withDropout(1))
                .hasMessage("miss_dropout must lie in [0, 1), found 1.0; try 0");
        assertThatThrownBy(() -> Bone.Config.of("row", 4))
                .hasMessage("init_weights must be true, bat, mini or false, found row; try true");
        Linear layer = linear(6, 9);
        assertThatThrownBy(() -> on(layer, Bone.Config.of("true", 8)))
                .hasMessage("r is 8, above the input width 6 of x; try 6, or name other layers");
        assertThatThrownBy(() -> on(layer, Bone.Config.of("bat", 4)))
                .hasMessage("r is 4, and bat wants a divisor of both widths of x [9, 6]; try 3, or init_weights true");
        assertThatThrownBy(() -> on(layer, Bone.Config.of("mini", 4).withMiniR(4)))
                .hasMessage("mini_r is 4, which does not divide the output width 9 of x; try 3");
        assertThatThrownBy(() -> TYPE.check(Bone.Config.of("bat", 3).withDropout(0.1), List.of()))
                .hasMessage("miss_dropout is 0.1, and bat drops nothing; set it to 0, or init_weights to true");
    }
}
