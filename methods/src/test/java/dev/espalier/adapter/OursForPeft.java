package dev.espalier.adapter;

import dev.espalier.io.Safetensors;
import dev.espalier.model.Input;
import dev.espalier.model.Pretrained;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * Writes adapters of every kind, moved from their start, with the logits we compute: what {@code tools/golden/check_ours.py}
 * loads in PEFT and compares. It prints a base and an adapter folder a line.
 *
 * <p>The first argument is the folder to write to. Every case of {@code golden/peft} is written again from our own start: that
 * covers a method as soon as it has one. Further arguments are names of cases, to write these and nothing else.
 */
public final class OursForPeft {

    private OursForPeft() {}

    public static void main(String[] args) {
        Path out = Path.of(args[0]);
        if (args.length > 1) {
            List.of(args).subList(1, args.length).forEach(name -> again(out, name));
            return;
        }
        PeftFixtures.cases().forEach(name -> again(out, name));
        Lora.Type lora = new Lora.Type();
        Lora.Config plain = Lora.Config.of(4, 6);
        Targets attention = Targets.of("q_proj", "v_proj");
        Lora.Config patterns = new Lora.Config(
                4, 6, 0, false, false, "true", Map.of("q_proj", 2, "layers.1.mlp.up_proj", 5), Map.of("q_proj", 16.0));
        Lora.Config biased = new Lora.Config(4, 6, 0, false, true, "true", Map.of(), Map.of());
        write(out, "llama", "lora", AdapterSpec.of(lora, plain, Targets.ALL));
        write(out, "llama", "globs", AdapterSpec.of(lora, plain, Targets.of("layers.*.mlp.*", "0.self_attn.?_proj")));
        write(out, "llama", "patterns", AdapterSpec.of(lora, patterns, Targets.ALL));
        write(out, "llama", "rslora", AdapterSpec.of(lora, patterns.withRslora(true), Targets.ALL));
        write(out, "llama", "lora-bias", AdapterSpec.of(lora, biased, attention));
        write(out, "llama", "bias-all", AdapterSpec.of(lora, plain, attention).withBias(AdapterSpec.Bias.ALL));
        write(
                out,
                "llama",
                "bias-lora-only",
                AdapterSpec.of(lora, plain, attention).withBias(AdapterSpec.Bias.LORA_ONLY));
        write(out, "llama", "head", AdapterSpec.of(lora, plain, attention).withModulesToSave(List.of("lm_head")));
        write(out, "llama", "embedding", AdapterSpec.of(lora, plain, Targets.of("embed_tokens", "lm_head", "q_proj")));
        write(out, "llama", "dora", AdapterSpec.of(new Dora.Type(), plain, Targets.ALL));
        write(out, "llama", "pissa", AdapterSpec.of(lora, plain.withInit("pissa"), Targets.ALL));
        write(out, "llama", "pissa-niter", AdapterSpec.of(lora, plain.withInit("pissa_niter_4"), Targets.ALL));
        write(
                out,
                "llama",
                "pissa-rslora",
                AdapterSpec.of(lora, patterns.withRslora(true).withInit("pissa"), Targets.ALL));
        write(out, "llama", "pissa-dora", AdapterSpec.of(new Dora.Type(), plain.withInit("pissa"), Targets.ALL));
        write(out, "llama", "olora", AdapterSpec.of(lora, plain.withInit("olora"), Targets.ALL));
        write(out, "llama-tied", "head", AdapterSpec.of(lora, plain, attention).withModulesToSave(List.of("lm_head")));
        write(out, "llama-tied", "embedding", AdapterSpec.of(lora, plain, Targets.of("embed_tokens", "q_proj")));
        write(out, "gpt2", "lora", AdapterSpec.of(lora, plain, Targets.ALL));
        write(out, "gpt2", "dora", AdapterSpec.of(new Dora.Type(), plain, Targets.of("c_attn", "c_proj", "c_fc")));
        write(out, "gpt2", "pissa", AdapterSpec.of(lora, plain.withInit("pissa"), Targets.ALL));
        write(out, "gpt2", "olora", AdapterSpec.of(lora, plain.withInit("olora"), Targets.ALL));
        write(out, "gpt2", "embedding", AdapterSpec.of(lora, plain, Targets.of("wte", "c_attn")));
        List<String> head = List.of("classifier");
        write(out, "bert", "lora", AdapterSpec.of(lora, plain, Targets.ALL).withModulesToSave(head));
        write(
                out,
                "bert",
                "dora",
                AdapterSpec.of(new Dora.Type(), plain, Targets.ALL).withModulesToSave(head));
        write(
                out,
                "bert",
                "pissa",
                AdapterSpec.of(lora, plain.withInit("pissa"), Targets.ALL).withModulesToSave(head));
        write(
                out,
                "bert",
                "bias-all",
                AdapterSpec.of(lora, plain, Targets.of("query"))
                        .withModulesToSave(head)
                        .withBias(AdapterSpec.Bias.ALL));
    }

    /** The same settings as PEFT's adapter has, started by us. */
    private static void again(Path out, String name) {
        String base = PeftFixtures.baseOf(name);
        try (Pretrained pretrained = PeftFixtures.base(base);
                AdaptedModel model = AdaptedModel.of(pretrained.model())) {
            AdapterSpec<?> spec = PeftFolder.load(model, PeftFixtures.adapter(name), "peft", true)
                    .spec();
            model.remove("peft");
            write(out.resolve(name), base, spec);
        }
    }

    private static void write(Path out, String base, String name, AdapterSpec<?> spec) {
        write(out.resolve("ours-" + base + "-" + name), base, spec);
    }

    private static void write(Path folder, String base, AdapterSpec<?> spec) {
        String task = base.equals("bert") ? "SEQ_CLS" : "CAUSAL_LM";
        try (Pretrained pretrained = PeftFixtures.base(base);
                AdaptedModel model = AdaptedModel.of(pretrained.model());
                Scope scope = Scope.open();
                Grad off = Grad.off()) {
            AdapterContract.move(model.attach("default", spec, new Seed(3)), 0.15);
            PeftFolder.Info info = PeftFolder.Info.of("tiny-" + base, task);
            PeftFolder.save(model, "default", folder, info, PeftFolder.Form.PLAIN, Map.of());
            Tensor ids = Tensor.of(new long[] {5, 9, 30, 7, 12, 46, 8, 22, 11, 31, 0, 0}, 2, 6);
            Tensor mask = Tensor.of(new long[] {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0}, 2, 6);
            Safetensors.write(
                    folder.resolve("ours.safetensors"),
                    Map.of(
                            "input_ids",
                            ids,
                            "attention_mask",
                            mask,
                            "logits",
                            pretrained.model().forward(Input.of(ids, mask))));
            System.out.println(PeftFixtures.root("peft").resolve("bases").resolve(base) + " " + folder);
        }
    }
}
