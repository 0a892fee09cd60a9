package dev.espalier.compare;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.compare.StudyResult.Equal;
import dev.espalier.recipe.Recipe;
import dev.espalier.recipe.Yaml;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class StudyTest {

    private static final String TEXT = """
            model: minilm
            task: {type: classification, train: a.csv, test: b.csv}
            methods: [lora, dora]
            equal: {steps: 10}
            """;

    @TempDir
    private Path folder;

    private static Study study(String... settings) {
        return Study.of("study.yaml", Yaml.with(Yaml.parse("study.yaml", TEXT), List.of(settings)));
    }

    @Test
    void whatIsNotSaidHasItsUsualValue() {
        Study study = study();
        assertThat(study.seeds()).containsExactly(0L, 1L, 2L);
        assertThat(study.validation()).isEqualTo(0.1);
        assertThat(study.metric()).isEqualTo("accuracy");
        assertThat(study.equal()).isEqualTo(Equal.STEPS);
        assertThat(study.rates(study.methods().get(0))).containsExactly(2e-4); // the recipe's own
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "methods=[lora, doro] | methods: doro: there is no recipe doro; did you mean dora?",
                "seedz=[1] | seedz is not a field; did you mean seeds?",
                "seeds=[] | a study needs a seed at least; write seeds: [0, 1, 2]",
                "seeds=[1, 1] | seeds holds one twice, found [1, 1]",
                "reference=pissa | reference is pissa, which is not among the methods",
                "equal.tokens=5 | equal holds one thing that is the same for all methods",
                "equal.steps=2.5 | equal.steps is a whole number of optimiser steps, found 2.5; try",
                "equal.steps=-1 | equal.steps must be above 0 and finite, found -1.0",
                "metric=acuracy | metric is acuracy, which classification has not; did you mean accuracy?",
                "memory=lots | memory is \"lots\"; write an amount with its unit, such as 4 GiB",
                "task.validation=1.5 | task.validation is a file or a share of train in (0, 1), found 1.5; try 0.1",
                "task.lenght=5 | lenght is not a field",
                "train.batsch=5 | batsch is not a field; did you mean batch?",
                "learningRates=[1.0e-3, 0] | learningRates must be above 0 and finite, found 0.0; try 2e-4",
                "methods=[lora, lora] | methods holds the name lora twice; give one of them another",
                "methods=[lora, fedsvd] | methods: fedsvd is carried out by espalier federate",
                "methods=[lora, ties] | ties is a recipe for espalier merge and trains nothing",
                "forgetting=x.jsonl | forgetting is a change of a language model's loss",
                "threads=0 | threads must be at least 1, found 0; try 1",
            })
    void whatIsWrongIsSaidInASentence(String setting, String sentence) {
        assertThatThrownBy(() -> study(setting))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining(sentence);
    }

    @Test
    void bothWaysToSayRatesAreOneTooMany() {
        assertThatThrownBy(() -> study("learningRates=[0.1]", "learningRateFactors=[1]"))
                .hasMessageContaining("are two ways to say one thing");
    }

    @Test
    void anUnknownStudyIsAnsweredWithTheNearest() {
        assertThatThrownBy(() -> Study.read("minilmm", List.of()))
                .hasMessage("there is no study minilmm; did you mean minilm?, or name a YAML file");
    }

    @Test
    void amountsOfMemoryHaveUnits() {
        assertThat(Study.bytes("", "4 GiB")).isEqualTo(4L << 30);
        assertThat(Study.bytes("", "800MB")).isEqualTo(800_000_000);
        assertThat(Study.bytes("", 12345)).isEqualTo(12345);
    }

    @Test
    void aMapChangesARecipeAndItsOwnRatesWin() {
        Study study = study(
                "methods=[lora, {recipe: lora, name: lora-r32, adapter: {r: 32, targets: [query, value]}, learningRates: [3e-3, 1e-3]}]",
                "learningRateFactors=[0.5, 2]");
        Contender wide = study.methods().get(1);
        Recipe recipe = study.recipe(wide);
        assertThat(Contender.ranks(recipe)).containsEntry("r", 32);
        assertThat(recipe.settings()).extractingByKey("adapter").asString().contains("[query, value]");
        assertThat(study.rates(wide)).containsExactly(1e-3, 3e-3);
        assertThat(study.rates(study.methods().get(0))).containsExactly(1e-4, 4e-4);
    }

    @Test
    void allMeansEveryMethodThatTrains() {
        List<String> names =
                study("methods=all").methods().stream().map(Contender::name).toList();
        assertThat(names).contains("lora", "pissa", "galore", "lisa", "ba-lora", "adalora", "lora-plus", "full");
        assertThat(names).doesNotContain("fedsvd", "ties", "eora", "lame", "intruder-dimensions", "npo");
    }

    @ParameterizedTest
    @ValueSource(strings = {"minilm", "smollm2-extraction"})
    void theStudiesThatComeWithEspalierAreSoundAndSoAreTheirData(String name) {
        assertThat(Study.BUILT_IN).contains(name);
        Study study = Study.read(name, List.of()).inFolder(folder);
        Study.Sizes sizes = study.checkData();
        assertThat(sizes.train() + sizes.validation()).isGreaterThan(sizes.test());
        assertThat(study.seeds()).hasSize(3);
    }

    private Study on(String train, String test, String... settings) throws Exception {
        Path a = Files.writeString(folder.resolve("a.csv"), train);
        Path b = Files.writeString(folder.resolve("b.csv"), test);
        List<String> all = new java.util.ArrayList<>(List.of("task.train=" + a, "task.test=" + b));
        all.addAll(List.of(settings));
        return study(all.toArray(String[]::new));
    }

    @Test
    void aClassThatTheTestSplitLacksIsNamed() throws Exception {
        String train = "text,label\nx,yes\ny,no\nz,maybe\n";
        assertThatThrownBy(() -> on(train, "text,label\nx,yes\ny,no\n").checkData())
                .hasMessageContaining("task.test has no example of \"maybe\", which train has");
        assertThatThrownBy(() ->
                        on(train, "text,label\nx,yes\ny,no\nu,maybe\nv,never\n").checkData())
                .hasMessageContaining("task.test has examples of \"never\", which train has not");
    }

    @Test
    void oneFileServesOnce() throws Exception {
        String train = "text,label\nx,yes\ny,no\n";
        assertThatThrownBy(() -> on(train, train).checkData())
                .hasMessageContaining("task.test and task.train are the same data");
        Path test = folder.resolve("b.csv");
        assertThatThrownBy(() -> on(train, "text,label\nu,yes\nv,no\n", "task.validation=" + test)
                        .checkData())
                .hasMessageContaining("task.validation and task.test are the same data");
    }

    @Test
    void settingsSurviveBeingWritten() {
        List<String> flat = new java.util.ArrayList<>();
        Contender.flatten("", Map.of("adapter", Map.of("targets", ".*(q|v)")), flat);
        assertThat(flat).containsExactly("adapter.targets=\".*(q|v)\"");
        assertThat(Shell.quoted(flat.get(0))).isEqualTo("'adapter.targets=\".*(q|v)\"'");
    }
}
