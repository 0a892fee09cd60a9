package dev.espalier.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

class LabelsTest {

    private static List<Example> labelled(String... labels) {
        return Stream.of(labels)
                .<Example>map(label -> new Example.Labelled("t", null, label, "a.csv:2"))
                .toList();
    }

    @Test
    void wholeNumbersAreOrderedByValueAndStayStrings() {
        assertThat(Labels.of(labelled("10", "9", "b", "a", "9", "-1", "1.5", "09"))
                        .names())
                .containsExactly("-1", "09", "9", "10", "1.5", "a", "b");
    }

    @Test
    void idsAndNamesAreInverse() {
        Labels labels = Labels.of(labelled("yes", "no"));
        assertThat(labels.id2label()).isEqualTo(Map.of("0", "no", "1", "yes"));
        assertThat(labels.label2id()).isEqualTo(Map.of("no", 0, "yes", 1));
        assertThat(Labels.fromId2label(labels.id2label()).names()).isEqualTo(labels.names());
        assertThat(labels.id(new Example.Labelled("t", null, "yes", "a.csv:2"))).isEqualTo(1);
        assertThat(labels.name(1)).isEqualTo("yes");
    }

    @Test
    void aLabelUnseenInTrainingIsNamed() {
        Labels labels = Labels.of(labelled("yes", "no"));
        assertThatThrownBy(() -> labels.id(new Example.Labelled("t", null, "maybe", "test.csv:9")))
                .hasMessage("test.csv:9: the label \"maybe\" does not occur in the training data, which has no, yes; "
                        + "correct it or train with it");
    }

    @Test
    void uselessLabelSetsAreRefused() {
        assertThatThrownBy(() -> Labels.of(labelled("yes", "yes")))
                .hasMessage("classification needs at least two labels, found only \"yes\"; add rows of another class");
        assertThatThrownBy(() -> Labels.of(List.of(new Example.Plain("t", "a.txt:1"))))
                .hasMessage("a.txt:1: classification needs text and label; name the columns with columns.text and "
                        + "columns.label");
        assertThatThrownBy(() -> new Labels(List.of("a", "b", "a")))
                .hasMessage("the label \"a\" stands twice in the list of labels; remove one");
        assertThatThrownBy(() -> Labels.fromId2label(Map.of("0", "a", "2", "b")))
                .hasMessage("id2label has 2 entries but none for 1; its keys must be 0 to 1");
    }
}
