package dev.espalier.init;

import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Tiny;
import dev.espalier.io.Json;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** Data for starts: batches for a {@link Tiny}, and numbers of the authors' code (tools/golden/make_start_fixtures.py). */
final class StartFixtures {

    private StartFixtures() {}

    /** Four batches. */
    static Calibration calibration(Tiny net) {
        return new Calibration() {
            @Override
            public long batches() {
                return 4;
            }

            @Override
            public Tensor loss(long batch) {
                return StartFixtures.loss(net, batch);
            }
        };
    }

    /** Mean cross entropy of one of four batches of eight ids, whose class is their remainder by three. */
    static Tensor loss(Tiny net, long batch) {
        long[] ids = new long[8];
        long[] classes = new long[8];
        for (int i = 0; i < 8; i++) {
            ids[i] = (i * 3 + batch * 5) % 11;
            classes[i] = ids[i] % 3;
        }
        return net.forward(Tensor.of(ids, 2, 4))
                .reshape(8, 3)
                .crossEntropy(Tensor.of(classes, 8), null, 0, Tensor.Reduction.MEAN);
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> golden(String name) {
        try {
            return (Map<String, Object>)
                    Json.read(Path.of(Objects.requireNonNull(StartFixtures.class.getResource("/golden/starts.json"))
                                    .toURI()))
                            .get(name);
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    /** A float32 tensor from a flat list. */
    static Tensor matrix(Map<String, Object> golden, String name, long... shape) {
        double[] values = ((List<?>) golden.get(name))
                .stream().mapToDouble(v -> ((Number) v).doubleValue()).toArray();
        return Tensor.of(values, shape).to(DType.FLOAT32);
    }
}
