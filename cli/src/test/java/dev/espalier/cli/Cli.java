package dev.espalier.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** The command line in this process, and small models and data to use it on. */
final class Cli {

    private static final Path GOLDEN =
            Path.of(System.getProperty("espalier.root", ".."), "models/src/test/resources/golden/models");

    /** Words that the small models know. */
    private static final List<String> WORDS = List.of(
            "<pad>", "<s>", "</s>", "<unk>", "where", "is", "my", "order", "money", "back", "please", "the", "late",
            "refund", "track", "it", "i", "want", "pay", "return");

    private Cli() {}

    record Result(int code, String out, String err) {
        /** The one line of complaint. */
        String complaint() {
            return err.lines().filter(l -> l.startsWith("espalier: ")).collect(Collectors.joining("\n"));
        }
    }

    static Result run(String... args) {
        StringWriter out = new StringWriter();
        StringWriter err = new StringWriter();
        int code = Main.run(new PrintWriter(out, true), new PrintWriter(err, true), args);
        return new Result(code, out.toString(), err.toString());
    }

    /** A random BERT of two layers with 34 positions, and a tokenizer of whole words. */
    static Path bert(Path folder) {
        return model("bert-classification", folder);
    }

    /** A random Llama of two layers, and a tokenizer of whole words. */
    static Path llama(Path folder) {
        return model("llama", folder);
    }

    private static Path model(String golden, Path folder) {
        try {
            Files.createDirectories(folder);
            for (String name : List.of("config.json", "model.safetensors")) {
                Files.copy(GOLDEN.resolve(golden).resolve(name), folder.resolve(name));
            }
            Map<String, Integer> ids = new TreeMap<>();
            WORDS.forEach(w -> ids.put(w, WORDS.indexOf(w)));
            String vocabulary = ids.entrySet().stream()
                    .map(e -> "\"%s\": %d".formatted(e.getKey(), e.getValue()))
                    .collect(Collectors.joining(", "));
            String added = Stream.of("<pad>", "<s>", "</s>", "<unk>")
                    .map(t -> ("{\"id\": %d, \"content\": \"%s\", \"special\": true, \"single_word\": false,"
                                    + " \"lstrip\": false, \"rstrip\": false, \"normalized\": false}")
                            .formatted(ids.get(t), t))
                    .collect(Collectors.joining(", "));
            Files.writeString(folder.resolve("tokenizer.json"), """
                    {"version": "1.0", "truncation": null, "padding": null, "added_tokens": [%s],
                     "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
                     "post_processor": null, "decoder": null,
                     "model": {"type": "WordLevel", "vocab": {%s}, "unk_token": "<unk>"}}
                    """.formatted(added, vocabulary));
            Files.writeString(folder.resolve("tokenizer_config.json"), """
                    {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
                    """);
            return folder;
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Texts of two classes that differ in their words. */
    static Path data(Path file) {
        StringBuilder rows = new StringBuilder("text,label\n");
        for (int i = 0; i < 12; i++) {
            rows.append(i % 2 == 0 ? "where is my order" : "i want my money back")
                    .append(" please".repeat(i % 3))
                    .append(i % 2 == 0 ? ",track\n" : ",refund\n");
        }
        return write(file, rows.toString());
    }

    static Path write(Path file, String text) {
        try {
            return Files.writeString(file, text);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** A recipe for a classifier. */
    static Path recipe(Path file, Path model, Path data, Path out) {
        return write(file, """
                model: %s
                task: {type: classification, data: %s, heldOut: 0.25}
                adapter: {type: lora, r: 2, lora_alpha: 4}
                train: {epochs: 2, batch: 4, learningRate: 5.0e-3, logEvery: 1}
                out: %s
                """.formatted(model, data, out));
    }
}
