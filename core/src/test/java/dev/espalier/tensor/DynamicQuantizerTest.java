package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import org.junit.jupiter.api.Test;

class DynamicQuantizerTest {

    /** By hand from the definition: the lowest decade of the signed table has one level, the highest 64. */
    @Test
    void tablesAreThoseOfTheDefinition() {
        double[] signed = DynamicQuantizer.SIGNED.table();
        assertThat(signed).hasSize(256).isSorted().contains(0, 1);
        assertThat(signed[127]).isZero();
        assertThat(signed[128]).isCloseTo(0.55e-6, within(1e-15));
        assertThat(signed[0]).isCloseTo(-(0.1 + 0.9 * 63.5 / 64), within(1e-12));
        double[] unsigned = DynamicQuantizer.UNSIGNED.table();
        assertThat(unsigned).hasSize(256).isSorted();
        assertThat(unsigned[0]).isZero();
        assertThat(unsigned[1]).isCloseTo(0.325e-6, within(1e-15));
        assertThat(unsigned[255]).isEqualTo(1);
    }

    /** 3 blocks, the last of them short, each of another size, and one of zeros. */
    @Test
    void roundTripsErrByHalfAGapAtMost() {
        for (DynamicQuantizer quantizer : List.of(DynamicQuantizer.SIGNED, DynamicQuantizer.UNSIGNED)) {
            try (Scope scope = Scope.open();
                    Generator generator = Generator.of(2)) {
                Tensor noise = generator.randn(900);
                Tensor sizes = Tensor.arange(900)
                        .to(DType.FLOAT32)
                        .div(100)
                        .floor()
                        .neg()
                        .exp();
                Tensor values = (quantizer == DynamicQuantizer.UNSIGNED ? noise.square() : noise).mul(sizes);
                values.narrow(0, 256, 256).zero_();
                DynamicQuantizer.Quantized quantized = quantizer.quantize(values);
                assertThat(quantized.codes().shape()).containsExactly(900);
                assertThat(quantized.absmax().shape()).containsExactly(4);
                double[] exact = values.doubles();
                double[] back = quantizer.dequantize(quantized).doubles();
                double[] absmax = quantized.absmax().doubles();
                double[] table = quantizer.table();
                for (int i = 0; i < 900; i++) {
                    double scale = absmax[i / 256];
                    double x = scale == 0 ? 0 : exact[i] / scale;
                    int above = java.util.Arrays.binarySearch(table, x);
                    above = above >= 0 ? above : Math.min(255, -above - 1);
                    // The signed table ends above -1: what lies below its end goes there.
                    double gap = above == 0 ? 2 * (table[0] - x) : table[above] - table[above - 1];
                    assertThat(Math.abs(back[i] - exact[i]))
                            .as("%s %d", quantizer, i)
                            .isLessThanOrEqualTo((gap / 2 + 1e-7) * scale);
                }
            }
        }
    }

    @Test
    void halfWayBetweenTwoEntriesTheLowerIsTaken() {
        try (Scope scope = Scope.open()) {
            double[] table = DynamicQuantizer.SIGNED.table();
            float middle = (float) ((table[200] + table[201]) / 2);
            Tensor codes = DynamicQuantizer.SIGNED
                    .quantize(Tensor.of(new float[] {1, middle, Math.nextUp(middle)}))
                    .codes();
            assertThat(codes.to(DType.INT64).longs()).containsExactly(255, 200, 201);
        }
    }
}
