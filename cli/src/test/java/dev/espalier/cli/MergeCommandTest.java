package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Several adapters combined from the command line. */
class MergeCommandTest {

    @TempDir
    private Path folder;

    private Path model;
    private Path data;

    @BeforeEach
    void makeModel() {
        model = Cli.bert(folder.resolve("model"));
        data = Cli.data(folder.resolve("data.csv"));
    }

    private Path train(String name, String... settings) {
        Path out = folder.resolve(name);
        List<String> args = new ArrayList<>(List.of(
                "train",
                Cli.recipe(folder.resolve(name + ".yaml"), model, data, out).toString()));
        for (String setting : settings) {
            args.add("--set");
            args.add(setting);
        }
        assertThat(Cli.run(args.toArray(String[]::new)).code()).isZero();
        return out;
    }

    private Cli.Result merge(String... args) {
        List<String> all = new ArrayList<>(List.of("merge"));
        all.addAll(List.of(args));
        all.addAll(List.of("--out", folder.resolve("merged").toString()));
        return Cli.run(all.toArray(String[]::new));
    }

    private static void fails(Cli.Result result, String... parts) {
        assertThat(result.code()).as(result.err()).isEqualTo(1);
        assertThat(result.complaint()).contains(parts);
        assertThat(result.complaint().lines()).hasSize(1);
    }

    @Test
    void twoAdaptersBecomeOneThatPredicts() {
        String both = train("a") + "," + train("b", "train.seed=5", "adapter.r=3");
        Cli.Result merged = merge("cat", "--adapters", both, "--weights", "0.5,0.5", "--heads", "mean", "--json");
        assertThat(merged.code()).as(merged.err()).isZero();
        assertThat(merged.out()).contains("\"method\":\"cat\"", "\"rank\":5", "\"distance_to_sum\":");
        String out = folder.resolve("merged").toString();
        Cli.Result predicted = Cli.run("predict", "--adapter", out, "where is my order");
        assertThat(predicted.code()).as(predicted.err()).isZero();
        assertThat(predicted.out()).containsAnyOf("track", "refund");
        assertThat(Cli.run(
                                "merge",
                                "--adapter",
                                out,
                                "--out",
                                folder.resolve("full").toString())
                        .code())
                .isZero();
    }

    @Test
    void anAdapterIsMadeFromTheCheckpointsOfOthers() {
        Path a = train("a", "train.checkpointEvery=1", "train.keepCheckpoints=3");
        Path b = train("b", "train.seed=5", "train.checkpointEvery=1", "train.keepCheckpoints=3");
        String[] how = {
            "icm-lora", "--set", "channels=[4, 4]", "--set", "latent=4", "--set", "epochs=2", "--set", "samples=2"
        };
        List<String> args = new ArrayList<>(List.of(how));
        args.addAll(List.of("--adapters", a + "," + b));
        Cli.Result single = merge(with(args, "--data", data.toString(), "--for", data.toString()));
        fails(single, "1 files of samples were given for 2 adapters; give one for each with --data");
        Path other = Cli.data(folder.resolve("other.csv"));
        String both = data + "," + data;
        fails(merge(with(args, "--data", both)), "no task is named to make an adapter for", "--for");
        fails(
                merge(with(args, "--data", both, "--for", other.toString())),
                "is the data of none of the adapters",
                "set task_vectors=base");
        Cli.Result made = merge(with(args, "--data", both, "--for", data.toString(), "--json"));
        assertThat(made.code()).as(made.err()).isZero();
        assertThat(made.out())
                .contains("\"method\":\"icm-lora\"", "\"nearest_checkpoint_cosine\":", "\"checkpoints\":");
        String out = folder.resolve("merged").toString();
        Cli.Result predicted = Cli.run("predict", "--adapter", out, "where is my order");
        assertThat(predicted.code()).as(predicted.err()).isZero();
        Cli.Result base = Cli.run(with(
                List.of("merge"),
                with(
                        args,
                        "--data",
                        both,
                        "--for",
                        other.toString(),
                        "--set",
                        "task_vectors=base",
                        "--set",
                        "statistics=all",
                        "--out",
                        folder.resolve("unseen").toString())));
        assertThat(base.code()).as(base.err()).isZero();
        assertThat(base.out()).contains("made by icm-lora from 2 tasks", "nearest checkpoint distance");
        Cli.Result plain = merge("cat", "--adapters", a + "," + b, "--data", both);
        assertThat(plain.code()).isEqualTo(2);
        assertThat(plain.err()).contains("cat combines adapters and reads no data; leave --data and --for out");
    }

    private static String[] with(List<String> args, String... more) {
        List<String> all = new ArrayList<>(args);
        all.addAll(List.of(more));
        return all.toArray(String[]::new);
    }

    @Test
    void aRecipeFileHoldsItAll() {
        Path a = train("a");
        Path b = train("b", "train.seed=5");
        Path recipe = Cli.write(folder.resolve("merge.yaml"), """
                merge: {type: ties, density: 0.5}
                adapters: [%s, %s]
                weights: [1, -1]
                heads: %s
                """.formatted(a, b, a));
        Cli.Result merged = merge(recipe.toString(), "--set", "density=0.8");
        assertThat(merged.code()).as(merged.err()).isZero();
        assertThat(merged.out()).contains("2 adapters merged by ties, a plain LoRA of rank 2", "weighted sum");
        assertThat(folder.resolve("merged/espalier.json")).content().contains("0.8", "\"weights\"");
    }

    @Test
    void whatDoesNotFitIsSaid() {
        Path a = train("a");
        Path b = train("b", "adapter.r=3");
        String both = a + "," + b;
        fails(merge("svd", "--adapters", both), "both bring their own version of classifier.", "heads");
        fails(merge("ties", "--adapters", both, "--heads", "mean"), "has rank 2 and b rank 3", "set svd to true");
        fails(merge("svd", "--adapters", both, "--weights", "1"), "1 weights were given for 2 adapters");
        fails(merge("svd", "--adapters", a + "," + a), "named twice");
        fails(merge("ties", "--adapters", a.toString()), "is the only adapter to merge", "two or more");
        fails(merge("ties", "--adapters", a + "," + folder.resolve("none")), "holds no adapter", "check the path");
        fails(merge("svd"), "--adapters");
        fails(merge("lora", "--adapters", both), "lora has no section merge", "lora-lego", "ties");
        fails(Cli.run("train", "ties"), "ties is a recipe for espalier merge and trains nothing");
        fails(merge("tie", "--adapters", both), "there is no recipe tie", "did you mean");
        fails(merge("svd", "--adapters", both, "--set", "svd_rnk=2"), "merge.svd_rnk", "did you mean svd_rank?");
        fails(merge("svd", "--adapters", both, "--heads", "c"), "heads is c", "[a, b]");
        Path dora = train("dora", "adapter.type=dora");
        fails(merge("svd", "--adapters", a + "," + dora), "of the type dora", "export --to lora");
        model = Cli.llama(folder.resolve("llama"));
        Path other = train("other", "task.type=classification");
        fails(merge("svd", "--adapters", a + "," + other), "different bases", "checksum");
        assertThat(folder.resolve("merged")).doesNotExist();
    }

    @Test
    void wrongUsagePointsTheWay() {
        Cli.Result noRecipe = merge("--adapters", "a,b");
        assertThat(noRecipe.code()).isEqualTo(2);
        assertThat(noRecipe.err()).contains("espalier merge svd --adapters a,b");
        Cli.Result single = merge("svd", "--adapter", "a");
        assertThat(single.code()).isEqualTo(2);
        assertThat(single.err()).contains("--adapters DIR,DIR");
    }
}
