package dev.espalier.compare;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.compare.Job.Solved;
import java.util.LinkedHashMap;
import java.util.Map;
import org.junit.jupiter.api.Test;

class RanksTest {

    /** LoRA on layers whose widths add up to 768: r (in + out). */
    private static long lora(Map<String, Integer> ranks) {
        return 768L * ranks.get("r");
    }

    @Test
    void theNearestRankIsFound() {
        assertThat(Ranks.solve(Map.of("r", 8), 768 * 5 + 100, RanksTest::lora))
                .isEqualTo(new Solved(Map.of("r", 5), 768 * 5));
        assertThat(Ranks.solve(Map.of("r", 8), 10, RanksTest::lora).ranks()).containsEntry("r", 1);
        assertThat(Ranks.solve(Map.of("r", 8), 768 * 96, RanksTest::lora).ranks())
                .containsEntry("r", 96);
    }

    @Test
    void settingsThatGoTogetherKeepTheirProportion() {
        Map<String, Integer> given = new LinkedHashMap<>();
        given.put("init_r", 12);
        given.put("target_r", 8);
        Solved solved = Ranks.solve(given, 100 * 6, ranks -> 100L * ranks.get("init_r"));
        assertThat(solved.ranks()).containsExactlyInAnyOrderEntriesOf(Map.of("init_r", 6, "target_r", 4));
    }

    @Test
    void aCountThatFallsAsRankRisesIsSolvedToo() {
        Solved solved = Ranks.solve(Map.of("r", 8), 400, ranks -> 6400L / ranks.get("r"));
        assertThat(solved).isEqualTo(new Solved(Map.of("r", 16), 400));
    }

    @Test
    void refusedRanksAreLeftOutAndAMethodWithoutRankStaysAsItIs() {
        Solved even = Ranks.solve(Map.of("r", 8), 768 * 5, ranks -> {
            if (ranks.get("r") % 4 != 0) {
                throw new EspalierException("r must be divisible by 4");
            }
            return lora(ranks);
        });
        assertThat(even.ranks()).containsEntry("r", 4);
        assertThat(Ranks.solve(Map.of(), 5, ranks -> 77)).isEqualTo(new Solved(Map.of(), 77));
        assertThatThrownBy(() -> Ranks.solve(Map.of("r", 8), 5, ranks -> {
                    throw new EspalierException("the layer is too narrow");
                }))
                .hasMessage("no rank from 1 to 1024 can be trained: the layer is too narrow");
    }
}
