package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.IntStream;

/** Names of classes in config.json. */
final class ClassNames {

    /** What transformers calls the one output of a regression. */
    static final List<String> REGRESSION = List.of("LABEL_0");

    private ClassNames() {}

    /** {@code id2label} in order of ids; empty if there is none. */
    static List<String> read(String where, Map<String, Object> json) {
        if (!(json.get("id2label") instanceof Map<?, ?> labels)) {
            return List.of();
        }
        Map<Integer, String> ordered = new TreeMap<>();
        labels.forEach((id, label) -> {
            try {
                ordered.put(Integer.valueOf(String.valueOf(id)), String.valueOf(label));
            } catch (NumberFormatException e) {
                throw new EspalierException(
                        "%s: id2label has the key '%s'; keys are 0, 1, 2, ...".formatted(where, id), e);
            }
        });
        check(
                ordered.keySet().stream()
                        .toList()
                        .equals(IntStream.range(0, ordered.size()).boxed().toList()),
                "%s: id2label has the keys %s; they must be 0 to %d",
                where,
                ordered.keySet(),
                ordered.size() - 1);
        return List.copyOf(ordered.values());
    }

    /** Puts {@code id2label} and {@code label2id}. */
    static void write(List<String> labels, Map<String, Object> json) {
        Map<String, Object> byId = new LinkedHashMap<>();
        Map<String, Object> byLabel = new LinkedHashMap<>();
        for (int i = 0; i < labels.size(); i++) {
            byId.put(String.valueOf(i), labels.get(i));
            byLabel.put(labels.get(i), i);
        }
        json.put("id2label", byId);
        json.put("label2id", byLabel);
    }
}
