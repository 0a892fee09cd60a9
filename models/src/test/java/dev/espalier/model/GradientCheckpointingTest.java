package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Layers that are computed again in the backward pass give the plain pass's output and gradients, dropout included. */
class GradientCheckpointingTest {

    private static final long[] IDS = {5, 9, 33, 12, 40, 7, 21, 60};

    private static Input padded() {
        return Input.of(Tensor.of(IDS, 2, 4), Tensor.of(new long[] {1, 1, 1, 0, 1, 1, 0, 0}, 2, 4));
    }

    private static Input packed() {
        return Input.of(Tensor.of(IDS, 1, 8)).withSegmentIds(Tensor.of(new long[] {0, 0, 0, 1, 1, 2, 2, -1}, 1, 8));
    }

    @ParameterizedTest
    @MethodSource("dev.espalier.model.Golden#families")
    void equalsThePlainPass(String name, boolean encoder) {
        Purpose purpose = encoder ? Purpose.embedding() : Purpose.causalLm();
        try (Pretrained pretrained = Models.load(Golden.root().resolve(name), purpose, Fp32.OPTIONS);
                Scope scope = Scope.open()) {
            Model model = pretrained.model();
            model.train(true);
            model.namedParameters().values().forEach(p -> p.trainable(true));
            for (Input in : new Input[] {padded(), packed()}) {
                Map<String, Tensor> plain = pass(model, in, false);
                Map<String, Tensor> again = pass(model, in, true);
                assertThat(plain).hasSizeGreaterThan(10);
                assertThat(again.keySet()).isEqualTo(plain.keySet());
                plain.forEach((path, value) -> Golden.assertClose(again.get(path), value, 1e-5));
            }
        }
    }

    /** The output by "", and each parameter's gradient by its path. */
    private static Map<String, Tensor> pass(Model model, Input in, boolean again) {
        model.backbone().gradientCheckpointing(again);
        Generator.seedDropout(3);
        Tensor hidden;
        try (Scope inner = Scope.open()) { // the forward pass's own scope ends before the backward pass
            Input own = in.map(Tensor::clone);
            hidden = inner.promote(model.backbone().forward(own));
        }
        hidden.square().sum().backward();
        Map<String, Tensor> found = new LinkedHashMap<>();
        found.put("", hidden.detach());
        model.namedParameters().forEach((path, p) -> {
            if (p.tensor().grad() != null) {
                found.put(path, Objects.requireNonNull(p.tensor().grad()).clone());
                p.tensor().clearGrad();
            }
        });
        return found;
    }
}
