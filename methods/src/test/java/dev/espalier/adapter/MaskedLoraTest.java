package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class MaskedLoraTest extends AdapterContract {

    @TempDir
    private Path folder;

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new MaskedLora.Type(), new MaskedLora.Config(2, 4, 0), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 2 * (out + in);
    }

    @Test
    void gradientsAreThoseOfTheMaskedProduct() {
        Gradients.check(layer -> {
            layer.weight().narrow(1, 0, 2).zero_();
            return new MaskedLora.Type()
                    .create(new MaskedLora.Config(2, 4, 0), java.util.List.of(new Site("x", layer)), new Seed(1))
                    .adapters()
                    .get("x");
        });
    }

    /** Zeros stay zeros when merged; without zeros it is LoRA. */
    @Test
    void zerosStay() {
        try (Tiny net = new Tiny(DType.FLOAT32);
                AdaptedModel model = new AdaptedModel(net, net.heads());
                Scope scope = Scope.open()) {
            net.layers.get(0).fc.weight().narrow(0, 1, 3).zero_();
            Attached adapter = model.attach("default", spec(), new Seed(2));
            move(adapter, 0.5);
            Tensor before = net.layers.get(0).fc.weight().clone();
            model.merge();
            Tensor after = net.layers.get(0).fc.weight();
            assertThat(after.narrow(0, 1, 3).abs().max().item()).isZero();
            assertThat(after.equal(before)).isFalse();
        }
    }

    /** On the whole weights it changes what it changed on the pruned ones, though they have no zeros. */
    @Test
    void theMaskGoesAlong() {
        try (Tiny pruned = new Tiny(DType.FLOAT32);
                Tiny whole = new Tiny(DType.FLOAT32);
                AdaptedModel model = new AdaptedModel(pruned, pruned.heads());
                AdaptedModel other = new AdaptedModel(whole, whole.heads());
                Scope scope = Scope.open()) {
            pruned.layers.get(0).fc.weight().narrow(0, 1, 3).zero_();
            Tensor masked = pruned.layers.get(0).fc.weight().clone();
            Tensor original = whole.layers.get(0).fc.weight().clone();
            move(model.attach("default", spec(), new Seed(2)), 0.5);
            PeftFolder.save(
                    model, "default", folder, PeftFolder.Info.of("base", null), PeftFolder.Form.PLAIN, Map.of());
            PeftFolder.load(other, folder, "default", false);
            model.merge();
            other.merge();
            Tensor change = pruned.layers.get(0).fc.weight().sub(masked);
            Tensor same = whole.layers.get(0).fc.weight().sub(original);
            assertThat(same.allclose(change, 1e-4, 1e-6)).isTrue();
            assertThat(same.narrow(0, 1, 3).abs().max().item()).isZero();
        }
    }

    @Test
    void badSettingsAreRefused() {
        assertThatThrownBy(() -> new MaskedLora.Config(0, 16, 0))
                .hasMessageStartingWith("r must be at least 1, found 0");
        assertThatThrownBy(() -> new MaskedLora.Config(8, 16, 1))
                .hasMessageStartingWith("lora_dropout must lie in [0, 1)");
        assertThatThrownBy(() -> new MaskedLora.Config(8, 0, 0)).hasMessageContaining("lora_alpha must be");
    }
}
