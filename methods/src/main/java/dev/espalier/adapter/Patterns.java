package dev.espalier.adapter;

import static dev.espalier.Check.check;

import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.ToIntFunction;

/** PEFT's {@code rank_pattern} and {@code alpha_pattern}: other values for the modules that a regular expression means. */
final class Patterns {

    private Patterns() {}

    /** The value of the first pattern that means a path, which it must do to the end, from the start or from a dot on. */
    static <T> T at(String path, Map<String, T> patterns, T otherwise) {
        for (Map.Entry<String, T> e : patterns.entrySet()) {
            if (means(e.getKey(), path)) {
                return e.getValue();
            }
        }
        return otherwise;
    }

    private static boolean means(String pattern, String path) {
        return Targets.compile("pattern", "(?:.*\\.)?(?:" + pattern + ")")
                .matcher(path)
                .matches();
    }

    /** Checks expressions and ranges, and an alpha beside them. */
    static void checkRanges(
            String alphaField, double alpha, Map<String, Integer> rankPattern, Map<String, Double> alphaPattern) {
        checkAlpha(alphaField, alpha);
        rankPattern.forEach((p, rank) -> {
            Targets.compile("rank_pattern", p);
            check(rank >= 1, "rank_pattern: the rank for %s must be at least 1, found %d; try 8", p, rank);
        });
        alphaPattern.forEach((p, value) -> {
            Targets.compile("alpha_pattern", p);
            checkAlpha("alpha_pattern: " + p, value);
        });
    }

    /** A copy of ranks by path, each at least 1. */
    static Map<String, Integer> ranks(Map<String, Integer> given) {
        given.forEach((path, rank) ->
                check(rank >= 1, "rank_pattern: the rank of %s must be at least 1, found %d; try 8", path, rank));
        return Collections.unmodifiableMap(new LinkedHashMap<>(given));
    }

    private static void checkAlpha(String field, double alpha) {
        check(
                alpha > 0 && Double.isFinite(alpha),
                "%s must be positive and finite, found %s; try twice the rank",
                field,
                alpha);
    }

    /** Stops where a rank is above a layer's width, or a pattern means no layer. */
    static void fit(
            List<Site> sites,
            ToIntFunction<String> rankAt,
            Map<String, Integer> rankPattern,
            Map<String, Double> alphaPattern) {
        for (Site site : sites) {
            int rank = rankAt.applyAsInt(site.path());
            long width = Math.min(site.layer().inFeatures(), site.layer().outFeatures());
            check(
                    rank <= width,
                    "r is %d, above the width %d of %s [%d, %d], where a higher rank adds nothing; try %d, or set rank_pattern for it",
                    rank,
                    width,
                    site.path(),
                    site.layer().outFeatures(),
                    site.layer().inFeatures(),
                    width);
        }
        checkUsed("rank_pattern", rankPattern.keySet(), sites);
        checkUsed("alpha_pattern", alphaPattern.keySet(), sites);
    }

    /** Stops where a pattern of a setting means no layer. */
    static void checkUsed(String field, Collection<String> patterns, List<Site> sites) {
        patterns.forEach(p -> check(
                sites.stream().anyMatch(site -> means(p, site.path())),
                "%s: %s matches none of the %d adapted modules; the first is %s",
                field,
                p,
                sites.size(),
                sites.get(0).path()));
    }

    /** A number as PEFT writes it: whole ones without a point. */
    static Object whole(double value) {
        return value == Math.rint(value) && Math.abs(value) < 1e15 ? (Object) (long) value : (Object) value;
    }
}
