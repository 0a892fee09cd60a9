package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Round-to-nearest and 2:4 pruning; expected numbers by hand. */
class WeightCompressorsTest {

    @TempDir
    private Path folder;

    /** Two bits, groups of four: spans 3, 3 and, in the group of two, 1.5; zeros at 1, 0, 1. */
    @Test
    void roundsToTheNearestOfItsGroup() {
        Tensor w = Tensor.of(new float[] {-1, 0.2f, 1.4f, 2, /**/ -0.5f, 1}, 1, 6);
        assertThat(rtn(2, 4, w).values().floats()).containsExactly(-1, 0, 1, 2, /**/ -0.5f, 1);
        Tensor positive = Tensor.of(new float[] {0.4f, 3, 1.6f, 0.6f}, 1, 4);
        assertThat(rtn(2, 4, positive).values().floats()).containsExactly(0, 3, 2, 1);
        // 2 bits, and (2 + 16) / 4 for zero and scale
        assertThat(rtn(2, 4, positive).bits()).isEqualTo(6.5);
    }

    @Test
    void zerosStayZeroAndCodesDecodeToTheSameValues() {
        try (Generator g = Generator.of(5)) {
            Tensor w = prune(g.randn(12, 20)).values();
            WeightCompressor.Compressed c = rtn(3, 8, w);
            assertThat(c.values().ne(0).logicalAnd(w.eq(0)).any()).isFalse();
            assertThat(rtn(4, 8, w.zerosLike()).values().abs().max().item()).isZero();
            Map<String, Tensor> file = new TreeMap<>();
            c.codes().forEach((name, t) -> file.put("fc." + name, t));
            Safetensors.write(folder.resolve("codes.safetensors"), file);
            try (TensorSource codes = Safetensors.open(folder.resolve("codes.safetensors"))) {
                assertThat(new RoundToNearest().decode(codes, "fc").equal(c.values()))
                        .isTrue();
                assertThat(codes.info("fc.codes").shape()).containsExactly(12L * 20 * 3 / 8);
            }
        }
    }

    @Test
    void eightBitsAreNear() {
        try (Generator g = Generator.of(5)) {
            Tensor w = g.randn(16, 64);
            assertThat(CompressionReport.error(w, rtn(8, 64, w).values())).isLessThan(0.01);
        }
    }

    @Test
    void keepsTheTwoLargestOfFour() {
        Tensor w = Tensor.of(new float[] {1, -3, 2, 0.5f, 0, 0, -1, 0, 1, -1, 1, 1}, 1, 12);
        assertThat(prune(w).values().floats()).containsExactly(0, -3, 2, 0, 0, 0, -1, 0, 1, -1, 0, 0);
        assertThat(prune(w).bits()).isEqualTo(17);
        assertThat(prune(w).codes()).isEmpty();
    }

    @Test
    void badInputIsRefused() {
        assertThatThrownBy(() -> rtn(1, 4, Tensor.of(new float[] {1}, 1, 1)))
                .hasMessage("bits must lie in [2, 8], found 1; try 4");
        assertThatThrownBy(() -> rtn(4, 0, Tensor.of(new float[] {1}, 1, 1)))
                .hasMessage("group_size must be at least 1, found 0; try 128");
        assertThatThrownBy(() -> rtn(2, 4, Tensor.of(new float[] {1e7f}, 1, 1)))
                .hasMessageStartingWith("the weights of fc reach 1.0E7, too far for scales in float16");
        assertThatThrownBy(() -> prune(Tensor.of(new float[6], 1, 6)))
                .hasMessage("fc has 6 inputs, which 2:4 pruning cannot take by fours; exclude it (exclude_modules)");
    }

    @Test
    void theNetworkMustBeBareAndTheLayersLinear() {
        try (TinyLm lm = TinyLm.trained();
                AdaptedModel model = lm.adapted();
                Scope scope = Scope.open()) {
            Compressor.Subject subject = new Compressor.Subject(model, List.of(), Calibration.NONE, new Seed(0));
            assertThatThrownBy(() -> new Prune24().compress(Targets.of("embed"), subject))
                    .hasMessage(
                            "embed is an embedding, and only linear layers are compressed; leave it out of targets");
            CompressionReport report = new Prune24().compress(Targets.ALL, subject);
            assertThat(report.rows())
                    .extracting(CompressionReport.Row::path)
                    .containsExactly("layers.0.fc", "layers.1.fc");
            assertThat(report.weights()).isEqualTo(64 * 32 + 64 * 64);
            assertThat(lm.hidden
                            .get(0)
                            .weight()
                            .eq(0)
                            .to(dev.espalier.tensor.DType.INT64)
                            .sum()
                            .item())
                    .isEqualTo(64 * 16);
            model.attach(
                    "a",
                    dev.espalier.adapter.AdapterSpec.of(
                            new dev.espalier.adapter.Lora.Type(),
                            dev.espalier.adapter.Lora.Config.of(2, 2),
                            Targets.ALL),
                    new Seed(0));
            assertThatThrownBy(() -> new Compressor.Subject(model, List.of(), Calibration.NONE, new Seed(0)))
                    .hasMessageStartingWith("the model carries the adapters [a] already");
        }
    }

    private static WeightCompressor.Compressed rtn(int bits, int group, Tensor w) {
        return new RoundToNearest().compress(new RoundToNearest.Config(bits, group, Targets.ALL), w, "fc");
    }

    private static WeightCompressor.Compressed prune(Tensor w) {
        return new Prune24().compress(Targets.ALL, w, "fc");
    }
}
