package dev.espalier.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.espalier.io.Json;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** torch 2.10 (tools/golden/make_random_fixtures.py), and what the class's comment says a stream is, written out again. */
class GeneratorTest {

    private static final double BOUND = Math.sqrt(6.0 / 7);

    static List<String> seeds() throws URISyntaxException {
        return List.copyOf(fixtures().keySet());
    }

    private static Map<String, Object> fixtures() throws URISyntaxException {
        return Json.read(Path.of(Objects.requireNonNull(GeneratorTest.class.getResource("/golden/random.json"))
                .toURI()));
    }

    private static double[] numbers(String seed, String key) throws URISyntaxException {
        return ((List<?>) ((Map<?, ?>) fixtures().get(seed)).get(key))
                .stream().mapToDouble(n -> ((Number) n).doubleValue()).toArray();
    }

    @ParameterizedTest
    @MethodSource("seeds")
    void aSeedGivesTorchsNumbers(String seed) throws URISyntaxException {
        try (Scope scope = Scope.open();
                Generator g = Generator.of(Long.parseLong(seed))) {
            assertThat(g.uniform(-BOUND, BOUND, 3, 7).doubles()).containsExactly(numbers(seed, "uniform"));
            assertThat(g.uniform(-0.3, 0.3, DType.BFLOAT16, 20).doubles())
                    .containsExactly(numbers(seed, "uniform_bfloat16"));
            assertThat(g.uniform(0, 1, 5).doubles()).containsExactly(numbers(seed, "rand"));
            assertThat(g.randperm(50).doubles()).containsExactly(numbers(seed, "randperm"));
            assertThat(g.randn(37).doubles()).containsExactly(numbers(seed, "randn"), within(1e-6));
        }
    }

    @ParameterizedTest
    @MethodSource("seeds")
    void theSpecificationIsWhatTorchDoes(String seed) throws URISyntaxException {
        Twister w = new Twister(Long.parseLong(seed));
        double[] uniform = numbers(seed, "uniform");
        for (double value : uniform) {
            float u = (w.next() & 0xffffff) * 0x1p-24f;
            assertThat((float) value).isEqualTo(Math.fma(u, (float) BOUND - (float) -BOUND, (float) -BOUND));
        }
        for (double value : numbers(seed, "uniform_bfloat16")) {
            double low = bfloat16(-0.3);
            double high = bfloat16(0.3);
            assertThat(value).isEqualTo(bfloat16((w.next() & 0xff) * 0x1p-8 * (high - low) + low));
        }
        for (double value : numbers(seed, "rand")) {
            assertThat(value).isEqualTo((w.next() & 0xffffff) * 0x1p-24);
        }
        long[] order = LongStream.range(0, 50).toArray();
        for (int i = 0; i < 49; i++) {
            int other = i + (int) (w.next() % (50 - i));
            long held = order[i];
            order[i] = order[other];
            order[other] = held;
        }
        assertThat(LongStream.of(order).asDoubleStream().toArray()).containsExactly(numbers(seed, "randperm"));
        double[] normal = new double[37];
        for (int i = 0; i < 37; i++) {
            normal[i] = (w.next() & 0xffffff) * 0x1p-24;
        }
        normalised(normal, 0);
        normalised(normal, 16);
        for (int i = 37 - 16; i < 37; i++) {
            normal[i] = (w.next() & 0xffffff) * 0x1p-24;
        }
        normalised(normal, 37 - 16);
        assertThat(normal).containsExactly(numbers(seed, "randn"), within(2e-6));
    }

    private static void normalised(double[] values, int from) {
        for (int j = from; j < from + 8; j++) {
            double r = Math.sqrt(-2 * Math.log(1 - values[j]));
            double angle = 2 * Math.PI * values[j + 8];
            values[j] = r * Math.cos(angle);
            values[j + 8] = r * Math.sin(angle);
        }
    }

    /** Rounded to the nearest number of eight significant bits, ties to even. */
    private static double bfloat16(double value) {
        int bits = Float.floatToRawIntBits((float) value);
        return Float.intBitsToFloat((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000);
    }

    @Test
    void seedsDifferInTheirLow32BitsOnly() {
        try (Scope scope = Scope.open();
                Generator a = Generator.of(5);
                Generator b = Generator.of(5 + (1L << 40))) {
            assertThat(a.uniform(0, 1, 9).equal(b.uniform(0, 1, 9))).isTrue();
        }
    }

    /** MT19937 as Matsumoto and Nishimura (1998) give it. */
    private static final class Twister {
        private final int[] state = new int[624];
        private int at = 624;

        Twister(long seed) {
            state[0] = (int) seed;
            for (int i = 1; i < 624; i++) {
                state[i] = 1812433253 * (state[i - 1] ^ (state[i - 1] >>> 30)) + i;
            }
        }

        long next() {
            if (at == 624) {
                for (int i = 0; i < 624; i++) {
                    int y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
                    state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ ((y & 1) == 0 ? 0 : 0x9908b0df);
                }
                at = 0;
            }
            int y = state[at++];
            y ^= y >>> 11;
            y ^= (y << 7) & 0x9d2c5680;
            y ^= (y << 15) & 0xefc60000;
            return Integer.toUnsignedLong(y ^ (y >>> 18));
        }
    }
}
