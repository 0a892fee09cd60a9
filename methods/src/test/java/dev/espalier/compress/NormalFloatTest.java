package dev.espalier.compress;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.adapter.Card;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class NormalFloatTest {

    /** bitsandbytes' table. */
    private static final double[] NF4 = {
        -1, -.6961929, -.5250730, -.3949175, -.2844414, -.1847734, -.0910500, 0, .0795803, .1609302, .2461123, .3379152,
        .4407098, .5626170, .7229567, 1
    };

    private static final double[] NF3 = {-1, -.4786292, -.2171418, 0, .1609302, .3379152, .5626170, 1};
    private static final double[] NF2 = {-1, 0, .3379152, 1};

    @TempDir
    private Path folder;

    @Test
    @Card(value = "lq-lora", checks = 1)
    void levelsAreThePublishedOnes() {
        for (double[] expected : new double[][] {NF4, NF3, NF2}) {
            int bits = Integer.numberOfTrailingZeros(expected.length);
            double[] levels = format(bits).levels().doubles();
            assertThat(levels).containsExactly(expected, within(1e-6));
        }
        double[] nf8 = format(8).levels().doubles();
        assertThat(Arrays.stream(nf8).distinct().count()).isEqualTo(256);
        assertThat(nf8[127]).isZero();
    }

    @ParameterizedTest
    @ValueSource(ints = {2, 3, 4, 8})
    @Card(value = "lq-lora", checks = 1)
    void levelsEncodeToThemselvesAndMidpointsToTheLower(int bits) {
        NormalFloat format = format(bits);
        Tensor v = format.levels();
        long n = v.numel();
        assertThat(format.encode(v).longs()).containsExactly(Tensor.arange(n).longs());
        Tensor middle = v.narrow(0, 0, n - 1).add(v.narrow(0, 1, n - 1)).mul(0.5);
        assertThat(format.encode(middle).longs())
                .containsExactly(Tensor.arange(n - 1).longs());
        assertThat(format.encode(Tensor.of(new float[] {-3, 3})).longs()).containsExactly(0, n - 1);
    }

    @ParameterizedTest
    @EnumSource(names = {"FLOAT32", "FLOAT16", "BFLOAT16"})
    @Card(value = "lq-lora", checks = 2)
    void decodedScalesAreNear(DType type) {
        NormalFloat format = new NormalFloat(4, 8, type, 16, 8);
        Tensor w = random(32, 64);
        NormalFloat.Quantized q = format.quantize(w, "w");
        float[] a = w.reshape(-1, 16).abs().amax(1, false).floats();
        float[] decoded = q.scales().floats();
        float[] u = q.u().to(DType.FLOAT32).floats();
        float offset = (float) q.offset().item();
        for (int j = 0; j < a.length; j++) {
            float exact = Float.NEGATIVE_INFINITY;
            for (int i = j / 8 * 8; i < j / 8 * 8 + 8; i++) {
                exact = Math.max(exact, a[i] - offset);
            }
            double bound = u[j / 8] / 510 + Math.abs(exact - u[j / 8]) + 1e-6 * a[j];
            assertThat(Math.abs(a[j] - decoded[j])).isLessThanOrEqualTo((float) bound);
        }
    }

    @Test
    @Card(value = "lq-lora", checks = 2)
    void decodedCodesEncodeToTheSameCodes() {
        NormalFloat format = new NormalFloat(3, 4, DType.FLOAT32, 16, 8);
        NormalFloat.Quantized q = format.quantize(random(32, 64), "w");
        Tensor again = q.values().view(-1, 16).div(q.scales().unsqueeze(1));
        assertThat(format.encode(again).longs()).containsExactly(q.codes().longs());
    }

    @Test
    @Card(value = "lq-lora", checks = 3)
    void storageIsTheFormulas() {
        long n = 64 * 256 * 4;
        assertThat((double) NormalFloat.NF4.storedBits(n) / n).isEqualTo(4.126953125);
        assertThat((double) new NormalFloat(3, 8, DType.FLOAT32, 64, 256).storedBits(n) / n)
                .isEqualTo(3.126953125);
        assertThat((double) new NormalFloat(2, 2, DType.BFLOAT16, 16, 16).storedBits(n) / n)
                .isEqualTo(2.1875);
    }

    /** A shape that fills its blocks, and one that does not. */
    @ParameterizedTest
    @ValueSource(ints = {32, 37})
    @Card(value = "lq-lora", checks = 3)
    void packedFilesHaveThatSizeAndDecodeToTheSameValues(int rows) {
        for (NormalFloat format : new NormalFloat[] {
            new NormalFloat(3, 2, DType.BFLOAT16, 16, 16), new NormalFloat(2, 3, DType.FLOAT16, 64, 4), NormalFloat.NF4
        }) {
            NormalFloat.Quantized q = format.quantize(random(rows, 51), "w");
            Map<String, Tensor> packed = new TreeMap<>();
            q.packed().forEach((name, t) -> packed.put("layer." + name, t));
            long bits = packed.entrySet().stream()
                    .filter(e -> !e.getKey().endsWith("format") && !e.getKey().endsWith("offset"))
                    .mapToLong(e -> 8 * e.getValue().bytes())
                    .sum();
            assertThat(bits - format.storedBits(rows * 51L))
                    .isBetween(0L, 14L); // up to a byte for codes and for scales
            Path file = folder.resolve("codes" + format + ".safetensors");
            Safetensors.write(file, packed);
            try (TensorSource source = Safetensors.open(file)) {
                assertThat(NormalFloat.Quantized.read(source, "layer").values().equal(q.values()))
                        .isTrue();
            }
        }
    }

    /** The traps of the card: groups and blocks whose scales are 0. */
    @Test
    void zerosStayZeroAndEqualScalesAreKept() {
        NormalFloat format = new NormalFloat(4, 2, DType.FLOAT32, 4, 2);
        assertThat(format.quantize(Tensor.zeros(DType.FLOAT32, 2, 8), "w")
                        .values()
                        .abs()
                        .max()
                        .item())
                .isZero();
        Tensor equal = Tensor.of(new float[] {1, 0, 0, -1, -1, 0, 1, 0}, 1, 8);
        assertThat(format.quantize(equal, "w").values().floats()).containsExactly(equal.floats());
        // one block of zeros: o_s = 0, and 0.1 < 1 / (2 · 3) gets the scale 0 with it
        Tensor mixed = Tensor.of(new float[] {0, 0, 0, 0, 1, 0, 0, 1, 0.1f, 0, 0, 0, 1, 0, 0, 0}, 2, 8);
        assertThat(format.quantize(mixed, "w").values().floats())
                .containsExactly(0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0);
    }

    @Test
    void aTailIsQuantisedAsItIs() {
        NormalFloat format = new NormalFloat(8, 8, DType.FLOAT32, 16, 4);
        Tensor w = random(3, 7).abs().add(1); // a padding of zeros would make o_s 0
        Tensor back = format.quantize(w, "w").values();
        assertThat(CompressionReport.error(w, back)).isLessThan(0.02);
        assertThat(format.quantize(w, "w").offset().item()).isGreaterThan(1);
    }

    @Test
    void badFormatsAreRefused() {
        assertThatThrownBy(() -> new NormalFloat(1, 8, DType.FLOAT32, 64, 256))
                .hasMessage("bits must lie in [2, 8], found 1; try 4");
        assertThatThrownBy(() -> new NormalFloat(4, 9, DType.FLOAT32, 64, 256))
                .hasMessage("scale_bits must lie in [2, 8], found 9; try 8");
        assertThatThrownBy(() -> new NormalFloat(4, 8, DType.INT64, 64, 256)).hasMessageContaining("found INT64");
        assertThatThrownBy(() -> new NormalFloat(4, 8, DType.FLOAT32, 0, 256))
                .hasMessage("block_sizes must be at least 1, found 0; try 64");
        assertThatThrownBy(() -> new NormalFloat(4, 8, DType.FLOAT32, 64, 0))
                .hasMessage("group_sizes must be at least 1, found 0; try 256");
        assertThatThrownBy(() -> new NormalFloat(4, 8, DType.FLOAT16, 2, 2)
                        .quantize(Tensor.of(new float[] {1, 1e6f, 1, 1}, 2, 2), "fc"))
                .hasMessageStartingWith("the weights of fc reach 1000000.0, which FLOAT16 cannot hold");
    }

    private static NormalFloat format(int bits) {
        return new NormalFloat(bits, 8, DType.FLOAT32, 64, 256);
    }

    private static Tensor random(long... shape) {
        try (Generator g = Generator.of(3)) {
            return g.randn(shape);
        }
    }
}
