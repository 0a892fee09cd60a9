package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A model is compressed, and trained further on what came out. */
class CompressCommandTest {

    @TempDir
    private Path folder;

    @Test
    void eoraCompensatesALanguageModelAndTrainingGoesOn() throws IOException {
        Path model = Cli.llama(folder.resolve("model"));
        Path data = texts();
        Path out = folder.resolve("small");
        Path recipe = Cli.write(folder.resolve("recipe.yaml"), """
                model: %s
                compress: {type: eora, r: 6, sequences: 8, of: {type: rtn, bits: 2, group_size: 8}}
                task: {type: causal-lm, data: %s, heldOut: 0.25}
                out: %s
                """.formatted(model, data, out));
        Cli.Result result = Cli.run("compress", recipe.toString(), "--json");
        assertThat(result.code()).as(result.err()).isZero();
        Map<String, Object> facts = Json.parse("compress", result.out());
        assertThat((double) facts.get("error_after")).isLessThan((double) facts.get("error_before"));
        assertThat(facts)
                .containsEntry("measure", "output")
                .containsEntry("base", out.resolve("base").toString());
        assertThat(Json.read(out.resolve("compress.json"))).containsKeys("layers", "recipe", "metrics_compensated");
        assertThat(out.resolve("base")).isDirectoryContaining(p -> p.endsWith("codes.safetensors"));
        assertThat(Json.read(out.resolve("adapter").resolve("adapter_config.json")))
                .containsEntry("peft_type", "LORA")
                .containsEntry("r", 6L)
                .containsEntry("lora_alpha", 6L);

        byte[] before = Files.readAllBytes(out.resolve("base/model.safetensors"));
        Path trained = folder.resolve("trained");
        Cli.Result more = trainOn(out.resolve("base"), out.resolve("adapter"), data, "causal-lm", trained);
        assertThat(more.code()).as(more.err()).isZero();
        assertThat(Files.readAllBytes(out.resolve("base/model.safetensors"))).isEqualTo(before);
        try (TensorSource start = Safetensors.open(out.resolve("adapter"));
                TensorSource end = Safetensors.open(trained)) {
            assertThat(end.tensors().keySet()).isEqualTo(start.tensors().keySet());
            String b = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
            assertThat(end.read(b).equal(start.read(b))).isFalse();
        }
        Cli.Result judged = Cli.run("evaluate", "--adapter", trained.toString(), "--data", data.toString(), "--json");
        assertThat(judged.code()).as(judged.err()).isZero();
    }

    @Test
    void lqLoraCompressesAClassifierAndAnyLoraTrainsOnItsBase() throws IOException {
        Path model = Cli.bert(folder.resolve("model"));
        Path data = Cli.data(folder.resolve("data.csv"));
        Path out = folder.resolve("small");
        Cli.Result result =
                compress("lq-lora", model, data, out, "compress.r=2", "compress.budget=3", "compress.iterations=5");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out())
                .contains(
                        "error before",
                        "mean relative error of weights",
                        "bits of a code: ",
                        "saved: ",
                        "try:   espalier train lora");
        byte[] before = Files.readAllBytes(out.resolve("base/model.safetensors"));
        Path trained = folder.resolve("trained");
        Cli.Result more = trainOn(out.resolve("base"), out.resolve("adapter"), data, "classification", trained);
        assertThat(more.code()).as(more.err()).isZero();
        for (String method : new String[] {"lora", "dora"}) {
            Path fresh = folder.resolve(method);
            Cli.Result other = Cli.run(
                    "train",
                    method,
                    "--set",
                    "model=" + out.resolve("base"),
                    "--set",
                    "task.type=classification",
                    "--set",
                    "task.data=" + data,
                    "--set",
                    "adapter.r=2",
                    "--set",
                    "train.epochs=1",
                    "--out",
                    fresh.toString());
            assertThat(other.code()).as(other.err()).isZero();
            assertThat(Cli.run("predict", "--adapter", fresh.toString(), "where is my order")
                            .code())
                    .isZero();
        }
        assertThat(Files.readAllBytes(out.resolve("base/model.safetensors"))).isEqualTo(before);
    }

    @Test
    void pruningLeavesAModelWithoutAnAdapterThatRtnAndEoraTakeUp() {
        Path model = Cli.llama(folder.resolve("model"));
        Path data = texts();
        Path pruned = folder.resolve("pruned");
        Cli.Result result = compress("prune-2-4", model, data, pruned);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out()).contains("compressed:  loss").doesNotContain("compensated");
        assertThat(pruned.resolve("adapter")).doesNotExist();
        Path both = folder.resolve("both");
        Cli.Result quantised = compress("rtn", pruned.resolve("base"), data, both, "compress.group_size=8");
        assertThat(quantised.code()).as(quantised.err()).isZero();
        Path repaired = folder.resolve("repaired");
        Cli.Result again = compress(
                "eora",
                model,
                data,
                repaired,
                "compress.r=4",
                "compress.of={from: %s}".formatted(both.resolve("base")));
        assertThat(again.code()).as(again.err()).isZero();
        assertThat(repaired.resolve("base")).isDirectoryContaining(p -> p.endsWith("codes.safetensors"));
    }

    /** Pruned, aligned, quantised, trained on, recovered: each a command, and the last adapter is one of the first model. */
    @Test
    void anAdapterTrainedOnAPrunedModelServesTheWholeOne() throws IOException {
        Path model = Cli.llama(folder.resolve("model"));
        Path data = texts();
        Path small = folder.resolve("small");
        Cli.Result pruned = compress(
                "loram", model, data, small, "compress.ratio=0.5", "compress.dense_first=1", "compress.dense_last=0");
        assertThat(pruned.code()).as(pruned.err()).isZero();
        assertThat(pruned.out()).contains("parameters are left", "compressed:  loss");
        assertThat(small.resolve("base/model.safetensors").toFile().length())
                .isLessThan(model.resolve("model.safetensors").toFile().length());

        Path full = folder.resolve("full");
        assertThat(train("full", small.resolve("base"), data, full).code()).isZero();
        Path aligned = folder.resolve("aligned");
        assertThat(Cli.run("merge", "--adapter", full.toString(), "--out", aligned.toString())
                        .code())
                .isZero();
        Path coded = folder.resolve("coded");
        Cli.Result four = compress(
                "loram",
                aligned,
                data,
                coded,
                "compress.four_bit=true",
                "compress.ratio=0",
                "compress.dense_first=1",
                "compress.dense_last=0");
        assertThat(four.code()).as(four.err()).isZero();
        assertThat(coded.resolve("base")).isDirectoryContaining(p -> p.endsWith("codes.safetensors"));

        Path adapter = folder.resolve("adapter");
        assertThat(train("lora", coded.resolve("base"), data, adapter).code()).isZero();
        Path whole = folder.resolve("whole");
        Cli.Result recovered =
                Cli.run("export", "--adapter", adapter.toString(), "--to", "whole", "--out", whole.toString());
        assertThat(recovered.code()).as(recovered.err()).isZero();
        assertThat(recovered.out()).contains(model.toString());
        Cli.Result judged = Cli.run("evaluate", "--adapter", whole.toString(), "--data", data.toString());
        assertThat(judged.code()).as(judged.err()).isZero();
        assertThat(Cli.run(
                                "merge",
                                "--adapter",
                                whole.toString(),
                                "--out",
                                folder.resolve("m").toString())
                        .code())
                .isZero();

        assertThat(Cli.run(
                                "export",
                                "--adapter",
                                full.toString(),
                                "--to",
                                "whole",
                                "--out",
                                folder.resolve("n").toString())
                        .complaint())
                .contains("has its own version of");
        assertThat(Cli.run(
                                "export",
                                "--adapter",
                                whole.toString(),
                                "--to",
                                "whole",
                                "--out",
                                folder.resolve("n").toString())
                        .complaint())
                .contains("was not cut out of a larger model");
        assertThat(train("prefix-tuning", coded.resolve("base"), data, folder.resolve("n"))
                        .complaint())
                .contains("different numbers of heads");
        assertThat(compress(
                                "loram",
                                model,
                                data,
                                folder.resolve("n"),
                                "compress.ratio=0.99",
                                "compress.dense_first=1",
                                "compress.dense_last=0")
                        .complaint())
                .contains("ratio 0.99 leaves nothing of the");
        assertThat(folder.resolve("n")).doesNotExist();
    }

    @Test
    void aMaskedAdapterServesTheWholeModelAsItIs() throws IOException {
        Path model = Cli.llama(folder.resolve("model"));
        Path data = texts();
        Path masked = folder.resolve("masked");
        Cli.Result pruned = compress("loram", model, data, masked, "compress.pruning=semi");
        assertThat(pruned.code()).as(pruned.err()).isZero();
        for (String kind : new String[] {"masked-lora", "lora"}) {
            Path adapter = folder.resolve(kind);
            Cli.Result trained = train(kind, masked.resolve("base"), data, adapter);
            assertThat(trained.code()).as(trained.err()).isZero();
            Path whole = folder.resolve(kind + "-whole");
            Cli.Result recovered =
                    Cli.run("export", "--adapter", adapter.toString(), "--to", "whole", "--out", whole.toString());
            assertThat(recovered.code()).as(recovered.err()).isZero();
            Cli.Result judged = Cli.run("evaluate", "--adapter", whole.toString(), "--data", data.toString());
            assertThat(judged.code()).as(judged.err()).isZero();
        }
    }

    @Test
    void pairsInPlaceOfWeightsTrainAndMerge() throws IOException {
        Path model = Cli.bert(folder.resolve("model"));
        Path data = Cli.data(folder.resolve("data.csv"));
        Path out = folder.resolve("pairs");
        Cli.Result result = compress("welore", model, data, out, "compress.k=0.5");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.out()).contains("weights are pairs of ranks", "without the adapter it is of no use");
        Path trained = folder.resolve("trained");
        Cli.Result more = trainOn(out.resolve("base"), out.resolve("adapter"), data, "classification", trained);
        assertThat(more.code()).as(more.err()).isZero();
        assertThat(Cli.run("predict", "--adapter", trained.toString(), "where is my order")
                        .code())
                .isZero();
        Cli.Result merged = Cli.run(
                "merge",
                "--adapter",
                trained.toString(),
                "--out",
                folder.resolve("m").toString());
        assertThat(merged.code()).as(merged.err()).isZero();
        assertThat(compress("welore", model, data, folder.resolve("n"), "compress.k=1.5")
                        .complaint())
                .contains("k must lie in [0, 1]");
    }

    private static Cli.Result train(String recipe, Path model, Path data, Path out) {
        return Cli.run(
                "train",
                recipe,
                "--set",
                "model=" + model,
                "--set",
                "task.type=causal-lm",
                "--set",
                "task.data=" + data,
                "--set",
                "train.epochs=1",
                "--out",
                out.toString());
    }

    @Test
    void whatCannotBeIsRefused() {
        Path model = Cli.bert(folder.resolve("model"));
        Path data = Cli.data(folder.resolve("data.csv"));
        Path out = folder.resolve("out");
        assertThat(compress("lq-lora", model, data, out, "compress.r=2", "compress.budget=2")
                        .complaint())
                .contains("budget is 2.0 bits a weight and the smallest formats on offer take 2.")
                .contains("set it to 2.");
        assertThat(compress("lora", model, data, out).complaint())
                .isEqualTo(
                        "espalier: the recipe has no section compress; write one, or carry it out by espalier train");
        assertThat(compress("rtn", model, data, out, "compress.type=lora").complaint())
                .contains("try lq-lora");
        assertThat(compress("rtn", model, data, out, "compress.bit=3").complaint())
                .contains("did you mean bits?");
        assertThat(Cli.run(
                                "train",
                                "rtn",
                                "--set",
                                "model=" + model,
                                "--set",
                                "task.type=classification",
                                "--set",
                                "task.data=" + data,
                                "--out",
                                out.toString())
                        .complaint())
                .isEqualTo("espalier: the recipe has a section compress; carry it out by espalier compress");
        assertThat(out).doesNotExist();
    }

    private static Cli.Result compress(String recipe, Path model, Path data, Path out, String... settings) {
        java.util.List<String> arguments = new java.util.ArrayList<>(java.util.List.of(
                "compress",
                recipe,
                "--set",
                "model=" + model,
                "--set",
                "task.data=" + data,
                "--set",
                "task.type=" + (data.toString().endsWith(".csv") ? "classification" : "causal-lm"),
                "--out",
                out.toString()));
        for (String setting : settings) {
            arguments.add("--set");
            arguments.add(setting);
        }
        return Cli.run(arguments.toArray(String[]::new));
    }

    private static Cli.Result trainOn(Path base, Path adapter, Path data, String task, Path out) {
        return Cli.run(
                "train",
                "lora",
                "--set",
                "model=" + base,
                "--set",
                "adapter={from: %s}".formatted(adapter),
                "--set",
                "task.type=" + task,
                "--set",
                "task.data=" + data,
                "--set",
                "train.epochs=1",
                "--out",
                out.toString());
    }

    private Path texts() {
        StringBuilder rows = new StringBuilder();
        for (int i = 0; i < 12; i++) {
            rows.append("{\"text\": \"%s%s\"}\n"
                    .formatted(i % 2 == 0 ? "where is my order" : "i want my money back", " please".repeat(1 + i % 3)));
        }
        return Cli.write(folder.resolve("texts.jsonl"), rows.toString());
    }
}
