package dev.espalier;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class NearestTest {

    private static final List<String> KNOWN = List.of("rank", "alpha", "learningRate", "dropout", "r");

    @Test
    void findsTheNameWithFewestEdits() {
        assertThat(Nearest.of("rnk", KNOWN)).isEqualTo("rank");
        assertThat(Nearest.of("apl", KNOWN)).isNull(); // three edits to alpha
        assertThat(Nearest.of("apha", KNOWN)).isEqualTo("alpha");
    }

    @Test
    void swappedNeighboursCountOnce() {
        assertThat(Nearest.of("dorpuot", KNOWN)).isEqualTo("dropout");
    }

    @Test
    void caseHyphensAndUnderscoresDoNotCount() {
        assertThat(Nearest.of("learning_rate", KNOWN)).isEqualTo("learningRate");
        assertThat(Nearest.of("LEARNING-RATE", KNOWN)).isEqualTo("learningRate");
    }

    @Test
    void hintListsWhatIsKnownWhenNothingIsNear() {
        assertThat(Nearest.hint("rnk", KNOWN)).isEqualTo("did you mean rank?");
        assertThat(Nearest.hint("temperature", List.of("rank", "alpha"))).isEqualTo("known here: rank, alpha");
        assertThat(Nearest.hint("rank", List.of())).isEqualTo("none is expected here");
    }

    @Test
    void unrelatedShortNamesAreNoHint() {
        assertThat(Nearest.of("ab", List.of("r", "xy"))).isNull();
    }
}
