package dev.espalier.cli;

import static dev.espalier.Check.check;

import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** A model's raw outputs, for comparison with another runtime. */
@Command(
        name = "probe",
        description =
                "Writes a model's logits (or embeddings) in fp32 for given token ids, to compare with another runtime.",
        footer = {
            "",
            "Example:  espalier probe --model model.gguf --ids 1,2,3 --out logits.safetensors",
            "The input file holds input_ids [B, T] and, optionally, attention_mask [B, T], both int64.",
            "The output file holds logits: [B, T, vocabulary], [B, classes] or, for an embedding model, [B, width]."
        })
final class ProbeCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @ArgGroup(multiplicity = "1")
    private Source source = new Source();

    @Option(names = "--out", required = true, paramLabel = "FILE", description = "a .safetensors file to write")
    private Path out = Path.of("");

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    /** Where the ids come from: a file or the command line. */
    private static final class Source {
        @Option(names = "--input", paramLabel = "FILE", description = "a .safetensors file with input_ids")
        @Nullable
        Path input;

        @Option(names = "--ids", split = ",", paramLabel = "ID", description = "token ids of one sequence")
        long @Nullable [] ids;
    }

    @Override
    public Integer call() {
        try (LoadedModel loaded = choice.open();
                Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Model model = loaded.pretrained().model();
            model.train(false);
            Tensor logits =
                    model.forward(input(model)).to(DType.FLOAT32).to(Device.CPU).contiguous();
            Safetensors.write(out, Map.of("logits", logits));
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("out", out.toString());
            facts.put("architecture", model.architecture());
            facts.put("shape", Arrays.stream(logits.shape()).boxed().toList());
            facts.put("norm", logits.norm().item());
            if (json) {
                terminal.json(facts);
            } else {
                terminal.line(
                        "%s: logits %s of %s, norm %.6g",
                        out, facts.get("shape"), model.architecture(), facts.get("norm"));
            }
        }
        return Main.OK;
    }

    private Input input(Model model) {
        Device device = model.backbone().tokens().weightParameter().tensor().device();
        long[] given = source.ids;
        if (given != null) {
            return Input.of(checked(Tensor.of(given, 1, given.length), model).to(device));
        }
        try (TensorSource file = Safetensors.open(java.util.Objects.requireNonNull(source.input))) {
            Tensor ids = checked(file.read("input_ids").to(DType.INT64), model).to(device);
            Tensor mask = file.tensors().containsKey("attention_mask")
                    ? file.read("attention_mask").to(DType.INT64).to(device)
                    : null;
            return Input.of(ids, mask);
        }
    }

    /** Ids outside the table would read foreign memory or abort in the depths. */
    private static Tensor checked(Tensor ids, Model model) {
        int vocabulary = model.config().vocabSize();
        for (long id : ids.longs()) {
            check(
                    id >= 0 && id < vocabulary,
                    "token id %d lies outside the model's vocabulary of %,d; encode with this model's tokenizer",
                    id,
                    vocabulary);
        }
        return ids;
    }
}
