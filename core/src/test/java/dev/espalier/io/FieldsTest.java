package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.Check;
import dev.espalier.EspalierException;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.assertj.core.api.AbstractThrowableAssert;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;

class FieldsTest {

    private enum Bias {
        NONE,
        ALL,
        LORA_ONLY
    }

    @Test
    void readsEachTypeAndItsDefault() {
        Fields f = Fields.of("", Json.parse("test", """
                {"s": "text", "i": 3, "n": 0.5, "b": true, "list": ["q", "v"], "one": "q", "ranks": {"layer.0": 4},
                 "bias": "Lora_Only", "wide": 5000000000, "layers": [1, 2]}"""));
        assertThat(f.string("s", "other")).isEqualTo("text");
        assertThat(f.integer("i", 8)).isEqualTo(3);
        assertThat(f.number("n", 1)).isEqualTo(0.5);
        assertThat(f.number("i", 1)).isEqualTo(3.0);
        assertThat(f.bool("b", false)).isTrue();
        assertThat(f.strings("list", List.of())).containsExactly("q", "v");
        assertThat(f.strings("one", List.of())).containsExactly("q");
        assertThat(f.integerMap("ranks", Map.of())).containsExactly(Map.entry("layer.0", 4));
        assertThat(f.choice("bias", Bias.NONE)).isEqualTo(Bias.LORA_ONLY);
        assertThat(f.longInteger("wide", 0)).isEqualTo(5_000_000_000L);
        assertThat(f.integers("layers", List.of())).containsExactly(1, 2);
        assertThat(f.string("absent", "default")).isEqualTo("default");
        assertThat(f.strings("absentList", List.of("x"))).containsExactly("x");
        String revision = f.orNull("revision", Fields::string);
        Integer steps = f.orNull("i", Fields::integer);
        assertThat(revision).isNull();
        assertThat(steps).isEqualTo(3);
        f.done();
    }

    @Test
    void nullCountsAsAbsent() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("rank", null);
        assertThat(Fields.of("", map).integer("rank", 8)).isEqualTo(8);
        thrown(() -> Fields.of("", map).integer("rank")).hasMessage("rank is missing; it takes an integer");
    }

    @Test
    void unknownKeyNamesTheNearestKnownOne() {
        Fields f = Fields.of("recipe.yaml", Map.of("adapter", Map.of("rnk", 4)));
        Fields adapter = f.fields("adapter");
        adapter.integer("rank", 8);
        adapter.number("alpha", 16);
        thrown(f::done).hasMessage("recipe.yaml: adapter.rnk is not a field; did you mean rank?");
    }

    @Test
    void unknownKeysAreAllReportedAtOnce() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("modle", "minilm");
        map.put("train", Map.of("flavour", 1));
        Fields f = Fields.of("", map);
        f.string("model", "");
        f.fields("train").integer("steps", 1);
        thrown(f::done)
                .hasMessage(
                        "modle is not a field; did you mean model?; train.flavour is not a field; known here: steps");
    }

    @Test
    void ignoredFieldsAreKnownAndUnreadOnesAreListed() {
        Fields f = Fields.of("config.json", Map.of("torch_dtype", "float32"));
        assertThat(f.unread()).containsOnlyKeys("torch_dtype");
        f.ignore("torch_dtype", "transformers_version");
        assertThat(f.unread()).isEmpty();
        f.done();
    }

    @Test
    void missingFieldSaysWhatItTakesAndWhatLooksLikeIt() {
        Fields f = Fields.of("recipe.yaml", Map.of("train", Map.of("step", 4)));
        thrown(() -> f.fields("train").integer("steps"))
                .hasMessage("recipe.yaml: train.steps is missing; it takes an integer (found step)");
    }

    @Test
    void wrongTypeSaysWhatWasFound() {
        Fields f = Fields.of("r.yaml", Json.parse("", """
                {"rank": "eight", "lr": "2e-4", "on": 1, "targets": [1], "bias": "some", "p": 8.5, "sub": 3}"""));
        thrown(() -> f.integer("rank", 8)).hasMessage("r.yaml: rank should be an integer, found the text \"eight\"");
        thrown(() -> f.number("lr", 8)).hasMessage("r.yaml: lr should be a number, found the text \"2e-4\"");
        thrown(() -> f.bool("on", true)).hasMessage("r.yaml: on should be true or false, found 1");
        thrown(() -> f.strings("targets", List.of())).hasMessage("r.yaml: targets should be text, found 1");
        thrown(() -> f.choice("bias", Bias.NONE))
                .hasMessage("r.yaml: bias should be one of none, all, lora_only, found the text \"some\"");
        thrown(() -> f.integer("p", 8)).hasMessage("r.yaml: p should be an integer, found 8.5");
        thrown(() -> f.fields("sub")).hasMessage("r.yaml: sub should be a map, found 3");
    }

    @Test
    void integersAreTakenWithoutLossOrNotAtAll() {
        Fields f = Fields.of("", Map.of("whole", 8.0, "wide", 1L << 40, "huge", BigInteger.TEN.pow(30)));
        assertThat(f.integer("whole", 1)).isEqualTo(8);
        thrown(() -> f.integer("wide", 1))
                .hasMessage("wide should be an integer of at most 32 bits, found 1099511627776");
        thrown(() -> f.longInteger("huge", 1))
                .hasMessage("huge should be an integer of at most 64 bits, found 1" + "0".repeat(30));
    }

    @Test
    void listsOfFieldsAreCheckedItemByItem() {
        Fields f = Fields.of("r.yaml", Map.of("parts", List.of(Map.of("type", "lora"), Map.of("tpye", "dora"))));
        List<Fields> parts = f.fieldsList("parts");
        assertThat(parts.get(0).string("type")).isEqualTo("lora");
        thrown(() -> parts.get(1).string("type"))
                .hasMessage("r.yaml: parts[1].type is missing; it takes text (found tpye)");
        thrown(f::done).hasMessage("r.yaml: parts[1].tpye is not a field; did you mean type?");
    }

    @Test
    void nullInsideAListIsRefused() {
        Fields f = Fields.of("", Map.of("t", Arrays.asList("a", null)));
        thrown(() -> f.strings("t", List.of())).hasMessage("t should be a list without null, found a list");
    }

    @Test
    void recordingListsWhatAReaderAsksFor() {
        List<Object> read = new ArrayList<>();
        List<Fields.Field> asked = Fields.askedBy(f -> {
            read.add(f.integer("rank", 8));
            Fields train = f.fields("train");
            read.add(train.number("learningRate", 2e-4));
            read.add(train.string("optimizer"));
            read.add(f.choice("bias", Bias.NONE));
            Check.check(false, "a neutral value may be out of range");
            read.add(f.integer("never", 1));
        });
        assertThat(read).containsExactly(8, 2e-4, "", Bias.NONE);
        assertThat(asked)
                .containsExactly(
                        new Fields.Field("rank", "integer", 8, false),
                        new Fields.Field("train.learningRate", "number", 2e-4, false),
                        new Fields.Field("train.optimizer", "text", null, true),
                        new Fields.Field("bias", "none | all | lora_only", Bias.NONE, false));
    }

    @Test
    void faultCarriesThePlace() {
        Fields f = Fields.of("r.yaml", Map.of("train", Map.of()));
        assertThat(f.fields("train").fault("steps", "and epochs exclude each other; give one"))
                .hasMessage("r.yaml: train.steps and epochs exclude each other; give one");
    }

    private static AbstractThrowableAssert<?, ? extends Throwable> thrown(ThrowingCallable call) {
        return assertThatThrownBy(call).isExactlyInstanceOf(EspalierException.class);
    }
}
