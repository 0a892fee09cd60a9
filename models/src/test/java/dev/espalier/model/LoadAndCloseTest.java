package dev.espalier.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.tensor.Machine;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/** A server that loads and closes models all day keeps its memory. */
class LoadAndCloseTest {

    private static final long SLACK =
            80L << 20; // room for the C library's arenas; a leak of 10 KB a model would be 100 MB

    @Test
    void tenThousandCyclesLeaveMemoryFlat() throws InterruptedException {
        Path folder = Golden.root().resolve("llama");
        cycles(folder, 1_500); // until compiled code and arenas have grown
        long objects = Machine.liveNativeObjects();
        long resident = residentOutsideTheHeap();
        cycles(folder, 10_000);
        assertThat(Machine.liveNativeObjects()).as("native objects").isLessThanOrEqualTo(objects);
        assertThat(residentOutsideTheHeap() - resident).as("growth in bytes").isLessThan(SLACK);
    }

    /** The least of several looks: mapped files are let go some time after their buffers are collected. */
    private static long residentOutsideTheHeap() throws InterruptedException {
        long least = Long.MAX_VALUE;
        for (int look = 0; look < 10; look++) {
            System.gc();
            Thread.sleep(100);
            least = Math.min(
                    least, Machine.residentBytes() - Runtime.getRuntime().totalMemory());
        }
        return least;
    }

    private static void cycles(Path folder, int count) {
        for (int i = 0; i < count; i++) {
            try (Pretrained loaded = Models.load(folder, Purpose.causalLm());
                    Scope scope = Scope.open()) {
                Tensor logits = loaded.model().forward(Input.of(1, 2, 3));
                assertThat(logits.size(1)).isEqualTo(3);
            }
        }
    }
}
