package dev.espalier.adapter;

import dev.espalier.io.Json;
import dev.espalier.tensor.Tensor;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** Numbers from files under {@code golden}. */
final class Golden {

    private Golden() {}

    static Map<String, Object> json(String name) {
        try {
            return Json.read(Path.of(Objects.requireNonNull(Golden.class.getResource("/golden/" + name), name)
                    .toURI()));
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    @SuppressWarnings("unchecked")
    static List<Map<String, Object>> list(Map<String, ?> of, String key) {
        return (List<Map<String, Object>>) Objects.requireNonNull(of.get(key), key);
    }

    static double number(Map<String, ?> of, String key) {
        return ((Number) Objects.requireNonNull(of.get(key), key)).doubleValue();
    }

    /** A list of numbers, or one of them. */
    static double[] numbers(Map<String, ?> of, String key) {
        Object value = Objects.requireNonNull(of.get(key), key);
        List<?> list = value instanceof List<?> several ? several : List.of(value);
        return list.stream().mapToDouble(n -> ((Number) n).doubleValue()).toArray();
    }

    static int[] ints(Map<String, ?> of, String key) {
        double[] numbers = numbers(of, key);
        int[] ints = new int[numbers.length];
        for (int i = 0; i < ints.length; i++) {
            ints[i] = (int) numbers[i];
        }
        return ints;
    }

    /** In float64. */
    static Tensor tensor(Map<String, ?> of, String key, long... shape) {
        return Tensor.of(numbers(of, key), shape);
    }
}
