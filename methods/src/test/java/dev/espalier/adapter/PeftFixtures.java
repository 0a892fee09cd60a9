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
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Stream;

/** Networks and adapters that PEFT 0.21 made: tools/golden/make_peft_*fixtures.py and make_step_fixtures.py. */
final class PeftFixtures {

    private static final String CASE = "case.json";

    private PeftFixtures() {}

    static Path root(String kind) {
        try {
            return Path.of(Objects.requireNonNull(PeftFixtures.class.getResource("/golden/" + kind))
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    /** The names of all cases: the folders with a {@code case.json}. */
    static List<String> cases() {
        try (Stream<Path> folders = Files.list(root("peft"))) {
            return folders.filter(folder -> Files.exists(folder.resolve(CASE)))
                    .map(folder -> folder.getFileName().toString())
                    .sorted()
                    .toList();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** What tools/golden/peft_cases.py says of a case. */
    static Map<String, Object> about(String name) {
        return Json.read(root("peft").resolve(name).resolve(CASE));
    }

    /** The network that the adapter is for. */
    static String baseOf(String name) {
        return (String) about(name).get("base");
    }

    /** Whether the method can be merged. */
    static boolean merges(String name) {
        return !Boolean.FALSE.equals(about(name).get("merges"));
    }

    /** A folder of the case: {@code adapter}, or {@code converted} if it has that. */
    static Path folder(String name, String field) {
        return root("peft").resolve(name).resolve((String) about(name).get(field));
    }

    static Path adapter(String name) {
        return folder(name, "adapter");
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
