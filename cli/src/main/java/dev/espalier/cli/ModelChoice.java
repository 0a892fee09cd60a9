package dev.espalier.cli;

import dev.espalier.model.LoadOptions;
import dev.espalier.model.Precision;
import dev.espalier.model.Purpose;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.tensor.Device;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Which model a command works on: {@code --model}, {@code --adapter}, {@code --precision}, {@code --device}. */
final class ModelChoice {

    @Spec(Spec.Target.MIXEE)
    private @Nullable CommandSpec command;

    @Option(
            names = "--model",
            paramLabel = "M",
            description =
                    "minilm, a model folder, a .gguf file, or a Hugging Face id such as org/name; an adapter knows its own")
    private @Nullable String model;

    @Option(names = "--adapter", paramLabel = "DIR", description = "an adapter folder, as train writes it")
    private @Nullable Path adapter;

    @Option(names = "--precision", defaultValue = "auto", description = "auto, fp32 or bf16 (default: auto)")
    private Precision precision = Precision.AUTO;

    @Option(names = "--device", defaultValue = "cpu", description = "cpu, cuda, cuda:N or auto (default: cpu)")
    private String device = "cpu";

    /** The adapter's folder, for commands that are nothing without one. */
    Path requireAdapter() {
        if (adapter == null) {
            throw new ParameterException(commandLine(), "name an adapter's folder with --adapter");
        }
        return adapter;
    }

    LoadedModel open() {
        return open(null);
    }

    /**
     * Loads what was chosen.
     *
     * @param purpose for a model without adapter; null for what its checkpoint was made for
     */
    LoadedModel open(@Nullable Purpose purpose) {
        LoadOptions options = options();
        if (adapter != null) {
            return LoadedModel.open(adapter, model, options);
        }
        if (model == null) {
            throw new ParameterException(commandLine(), "name a model with --model or an adapter with --adapter");
        }
        return purpose == null ? LoadedModel.open(model, options) : LoadedModel.open(model, purpose, options);
    }

    /** The base as named, or null. */
    @Nullable
    String model() {
        return model;
    }

    /** Stops if one adapter is named where several are worked on. */
    void refuseAdapter(String instead) {
        if (adapter != null) {
            throw new ParameterException(commandLine(), instead);
        }
    }

    CommandLine commandLine() {
        return java.util.Objects.requireNonNull(command).commandLine();
    }

    LoadOptions options() {
        return LoadOptions.defaults()
                .withPrecision(precision)
                .withDevice(Device.parse(device))
                .withProgress(Downloads.to(commandLine().getErr()));
    }
}
