package dev.espalier.federated;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.data.Encoding;
import dev.espalier.tensor.Seed;
import java.util.List;
import org.junit.jupiter.api.Test;

class DirichletSplitTest {

    private static final List<Encoding> EXAMPLES = ToyFederation.examples(400, 1);

    private static List<List<Encoding>> split(double concentration) {
        return DirichletSplit.of(EXAMPLES, Encoding::label, 5, concentration, new Seed(2));
    }

    @Test
    void everyExampleGoesToOneClientAndTheSeedDecides() {
        List<List<Encoding>> dealt = split(0.5);
        assertThat(dealt).hasSize(5);
        assertThat(dealt.stream().flatMap(List::stream)).containsExactlyInAnyOrderElementsOf(EXAMPLES);
        assertThat(split(0.5)).isEqualTo(dealt);
        assertThat(DirichletSplit.of(EXAMPLES, Encoding::label, 5, 0.5, new Seed(3)))
                .isNotEqualTo(dealt);
    }

    /** A share of Dirichlet(c, .., c) over K has variance (1/K) (1 - 1/K) / (K c + 1): 0.152² at c 1, below 0.02² at 100. */
    @Test
    void concentrationDecidesHowUneven() {
        assertThat(unevenness(split(1))).isBetween(0.09, 0.22);
        assertThat(unevenness(split(100))).isLessThan(0.04);
    }

    /** Root mean squared distance of a client's share of a label from 1/5. */
    private static double unevenness(List<List<Encoding>> dealt) {
        double squares = 0;
        for (List<Encoding> client : dealt) {
            for (int label = 0; label < ToyFederation.CLASSES; label++) {
                int wanted = label;
                long count = client.stream()
                        .filter(e -> e.label().intValue() == wanted)
                        .count();
                squares += Math.pow(count / 100.0 - 0.2, 2);
            }
        }
        return Math.sqrt(squares / 20);
    }

    @Test
    void aClientWithoutDataIsSaid() {
        assertThatThrownBy(() -> DirichletSplit.of(EXAMPLES.subList(0, 4), Encoding::label, 6, 0.5, new Seed(0)))
                .hasMessageMatching(
                        "client \\d of 6 has no data: 4 examples of 4 labels were dealt out with concentration 0.5; lower"
                                + " clients, such as to 1, raise concentration, or take another seed");
    }
}
