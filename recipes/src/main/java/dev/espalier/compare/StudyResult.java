package dev.espalier.compare;

import dev.espalier.EspalierException;
import dev.espalier.io.Json;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.DeserializationFeature;
import tools.jackson.databind.PropertyNamingStrategies;
import tools.jackson.databind.json.JsonMapper;

/**
 * What a study found: the content of {@code results.json}, whose keys are these names in snake case.
 *
 * @param name of the study
 * @param date when it ended, ISO-8601 in UTC
 * @param command what repeats all of it
 * @param settings the study as it was given
 * @param terms what was the same for all
 * @param machine it ran on
 * @param versions of Espalier, Java, libtorch and its binding, by name
 * @param methods in the study's order, the reference among them
 */
public record StudyResult(
        String name,
        String date,
        String command,
        Map<String, Object> settings,
        Terms terms,
        Machine machine,
        Map<String, String> versions,
        List<MethodResult> methods) {

    /**
     * What was the same for all methods.
     *
     * @param model the base
     * @param task {@code classification}, {@code regression} or {@code causal-lm}
     * @param metric name of the test metric in {@link RunResult.Measured#metric}: {@code accuracy}, {@code exact_match}, {@code loss}
     * @param higherIsBetter which way the metric points
     * @param trainExamples to learn from
     * @param validationExamples learning rates were chosen on
     * @param testExamples the metric is of; looked at once, after every choice
     * @param seeds one run each
     * @param equal what was held equal
     * @param value how much of it
     * @param reference name of the row that others are compared with
     * @param confidence of the intervals, such as 0.95
     * @param forgetting the second data set, or null
     * @param baseMetric test metric of the frozen base with no training but class means, or null where there is none
     */
    public record Terms(
            String model,
            String task,
            String metric,
            boolean higherIsBetter,
            int trainExamples,
            int validationExamples,
            int testExamples,
            List<Long> seeds,
            Equal equal,
            double value,
            String reference,
            double confidence,
            @Nullable String forgetting,
            @Nullable Double baseMetric) {

        /** Copies. */
        public Terms {
            seeds = List.copyOf(seeds);
        }
    }

    /** What a study holds equal. */
    public enum Equal {
        /** Optimiser steps. */
        STEPS("steps"),
        /** Tokens of training data seen, padding not counted. */
        TOKENS("tokens"),
        /** Seconds of training. */
        TIME("seconds"),
        /** Trained parameters. */
        PARAMETERS("trained parameters");

        private final String unit;

        Equal(String unit) {
            this.unit = unit;
        }

        /** What its value counts. */
        public String unit() {
            return unit;
        }

        /** As files write it. */
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /**
     * Where a study ran.
     *
     * @param system operating system and architecture
     * @param processor its model, or an empty text where not told
     * @param cores there are
     * @param memoryBytes there are, or -1 where not told
     * @param threads of each run
     * @param atOnce runs side by side at most
     * @param memoryBudget bytes that they shared
     */
    public record Machine(
            String system, String processor, int cores, long memoryBytes, int threads, int atOnce, long memoryBudget) {}

    private static final JsonMapper MAPPER = JsonMapper.builder()
            .propertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
            .enable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
            .enable(DeserializationFeature.FAIL_ON_NULL_FOR_PRIMITIVES)
            .enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES)
            .build();

    /** Copies. */
    public StudyResult {
        settings = Collections.unmodifiableMap(new LinkedHashMap<>(settings));
        versions = Collections.unmodifiableMap(new LinkedHashMap<>(versions));
        methods = List.copyOf(methods);
    }

    /** The row that others are compared with. */
    public MethodResult reference() {
        return method(terms.reference());
    }

    /**
     * A row.
     *
     * @throws EspalierException if there is none of that name
     */
    public MethodResult method(String row) {
        return methods.stream()
                .filter(m -> m.name().equals(row))
                .findFirst()
                .orElseThrow(() -> new EspalierException("the study %s has no row %s; it has %s"
                        .formatted(
                                name,
                                row,
                                String.join(
                                        ", ",
                                        methods.stream().map(MethodResult::name).toList()))));
    }

    /** The content of {@code results.json}. */
    public Map<String, Object> json() {
        return map(this);
    }

    /** Writes {@code results.json}, atomically. */
    public void write(Path file) {
        Json.write(file, json());
    }

    /**
     * Reads {@code results.json}.
     *
     * @throws EspalierException if it is not what {@link #write} wrote
     */
    public static StudyResult read(Path file) {
        return bind(file.toString(), Json.read(file), StudyResult.class);
    }

    /** A record as a JSON object. */
    @SuppressWarnings("unchecked") // a record is an object
    static Map<String, Object> map(Object value) {
        return MAPPER.convertValue(value, LinkedHashMap.class);
    }

    /** The record that a JSON object holds. */
    static <T> T bind(String where, Map<String, Object> json, Class<T> type) {
        try {
            return MAPPER.convertValue(json, type);
        } catch (JacksonException | IllegalArgumentException e) {
            String reason = String.valueOf(e.getMessage())
                    .lines()
                    .findFirst()
                    .orElse("")
                    .split("; `", 2)[0];
            throw new EspalierException(
                    "%s is not what this version of Espalier writes: %s; run the study again".formatted(where, reason),
                    e);
        }
    }
}
