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
            80L << 20; // measured noise is 50 MB up and down; a leak of 10 KB a model would be 100 MB

    @Test
    void tenThousandCyclesLeaveMemoryFlat() {
        Path folder = Golden.root().resolve("llama");
        cycles(folder, 1_500); // until compiled code and arenas have grown
        long objects = Machine.liveNativeObjects();
        long resident = residentOutsideTheHeap();
        cycles(folder, 10_000);
        assertThat(Machine.liveNativeObjects()).as("native objects").isEqualTo(objects);
        assertThat(residentOutsideTheHeap() - resident).as("growth in bytes").isLessThan(SLACK);
    }

    /** Mapped files are let go when their buffers are collected, so it is counted after a collection. */
    private static long residentOutsideTheHeap() {
        System.gc();
        return Machine.residentBytes() - Runtime.getRuntime().totalMemory();
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
