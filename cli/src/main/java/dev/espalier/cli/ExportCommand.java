package dev.espalier.cli;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.io.Safetensors;
import dev.espalier.nn.Parameter;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.recipe.Recovery;
import dev.espalier.recipe.Run;
import dev.espalier.tensor.Tensor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** Writes an adapter in another form. */
@Command(
        name = "export",
        description = {
            "Writes an adapter in another form:",
            "  peft         Hugging Face PEFT's format",
            "  lora         a plain LoRA in PEFT's format, which every tool reads; exact, or of --rank with its error told",
            "  whole        a plain LoRA for the whole model, of an adapter that was trained on a pruned one (loram)",
            "  safetensors  the merged model's weights in one file"
        },
        footer = {
            "",
            "Example:  espalier export --adapter out/dora --to lora --rank 16 --out out/dora-as-lora",
            "          espalier export --adapter out/tickets --to safetensors --out tickets.safetensors"
        })
final class ExportCommand implements Callable<Integer> {

    enum Form {
        LORA,
        PEFT,
        WHOLE,
        SAFETENSORS
    }

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Option(names = "--to", required = true, paramLabel = "FORM", description = "lora, peft, whole or safetensors")
    private Form form = Form.PEFT;

    @Option(
            names = "--rank",
            paramLabel = "R",
            description = "for lora and whole: rank at most; 0 (default): the adapter's own, exact or refused")
    private int rank;

    @Option(
            names = "--out",
            required = true,
            paramLabel = "PATH",
            description = "the folder to write, or for safetensors the file")
    private Path out = Path.of("");

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Path adapter = choice.requireAdapter();
        if (form == Form.SAFETENSORS) {
            dev.espalier.Check.check(!Files.exists(out), "%s exists already; choose another name or remove it", out);
        } else {
            Run.checkFree(out, false);
        }
        try (LoadedModel loaded = choice.open()) {
            AdaptedModel adapted = loaded.requireAdapter();
            Map<String, Object> facts = new LinkedHashMap<>();
            facts.put("out", out.toString());
            facts.put("form", form.name().toLowerCase(java.util.Locale.ROOT));
            switch (form) {
                case PEFT -> PeftFolder.save(adapted, "default", out, null, PeftFolder.Form.PLAIN, receipt(adapter));
                case LORA ->
                    facts.putAll(facts(PeftFolder.exportLora(adapted, "default", out, null, rank, receipt(adapter))));
                case WHOLE -> {
                    Recovery recovery = Recovery.of(loaded, out, rank);
                    facts.put("base", recovery.base());
                    facts.putAll(facts(recovery.layers()));
                }
                case SAFETENSORS -> {
                    adapted.merge();
                    Map<String, Tensor> weights = weights(loaded);
                    Safetensors.write(out, weights);
                    facts.put("tensors", weights.size());
                }
            }
            if (json) {
                terminal.json(facts);
            } else {
                facts.forEach((name, value) -> terminal.line("%-15s %s", name.replace('_', ' '), value));
            }
        }
        return Main.OK;
    }

    private static Map<String, Object> facts(List<PeftFolder.Exported> layers) {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("layers", layers.size());
        facts.put(
                "rank",
                layers.stream().mapToLong(PeftFolder.Exported::rank).max().orElse(0));
        facts.put(
                "relative_error",
                layers.stream()
                        .mapToDouble(PeftFolder.Exported::relativeError)
                        .max()
                        .orElse(0));
        return facts;
    }

    /** What the folder says of base and task holds for the export too; how its start was taken apart does not. */
    private static Map<String, Object> receipt(Path adapter) {
        Map<String, Object> receipt = new LinkedHashMap<>(PeftFolder.receipt(adapter));
        receipt.keySet().removeAll(Set.of("format", "as_trained"));
        return receipt;
    }

    private static Map<String, Tensor> weights(LoadedModel loaded) {
        Set<Parameter> seen = Collections.newSetFromMap(new IdentityHashMap<>());
        Map<String, Tensor> weights = new LinkedHashMap<>();
        loaded.pretrained().model().namedParameters().forEach((path, p) -> {
            if (seen.add(p)) {
                weights.put(path, p.tensor());
            }
        });
        return weights;
    }
}
