package dev.espalier.adapter;

import dev.espalier.io.Json;
import dev.espalier.io.TensorSource;
import dev.espalier.model.Input;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Model;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Tensor;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.Map;
import java.util.Objects;

/** Networks and adapters that PEFT 0.21 made: tools/golden/make_peft_fixtures.py and make_step_fixtures.py. */
final class PeftFixtures {

    private PeftFixtures() {}

    static Path root(String kind) {
        try {
            return Path.of(Objects.requireNonNull(PeftFixtures.class.getResource("/golden/" + kind))
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    static Map<String, Object> cases() {
        return Json.read(root("peft").resolve("cases.json"));
    }

    static String of(String name, String field) {
        return (String) ((Map<?, ?>) cases().get(name)).get(field);
    }

    static Path adapter(String name) {
        return root("peft").resolve(of(name, "adapter"));
    }

    static Pretrained base(String base) {
        Purpose purpose = base.equals("bert") ? Purpose.classification() : Purpose.causalLm();
        return Models.load(
                root("peft").resolve("bases").resolve(base),
                purpose,
                LoadOptions.defaults().withPrecision(Precision.FP32));
    }

    static AdaptedModel adapted(Pretrained base) {
        return AdaptedModel.of(base.model());
    }

    /** Logits as the fixtures have them: 0 at padded positions of language models. */
    static Tensor logits(Model model, TensorSource expected) {
        try (Grad off = Grad.off()) {
            Tensor mask = expected.read("attention_mask");
            Tensor logits = model.forward(Input.of(expected.read("input_ids"), mask));
            return logits.dim() == 3 ? logits.mul(mask.unsqueeze(-1)) : logits;
        }
    }

    static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }
}
