package dev.espalier.compare;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.Method;
import dev.espalier.io.Json;
import dev.espalier.recipe.Recipe;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * A method that takes part in a study.
 *
 * @param name of its row
 * @param recipe a name, or a YAML file, as {@code train} takes it
 * @param changes laid over the recipe, such as {@code adapter.r=16}, as {@code --set} takes them
 * @param rates learning rates to choose from, ascending; empty for the study's
 */
public record Contender(String name, String recipe, List<String> changes, List<Double> rates) {

    /** Settings of an adapter that its rank follows, together; the first that a method has. */
    private static final List<List<String>> RANKS = List.of(List.of("r"), List.of("init_r", "target_r"));

    /** Checks the name, which becomes a folder's, and the rates. */
    public Contender {
        changes = List.copyOf(changes);
        rates = rates.stream().sorted().toList();
        check(
                name.matches("[A-Za-z0-9][A-Za-z0-9._+-]*"),
                "methods: \"%s\" is no name of a row; give letters, digits, dots and hyphens, such as lora-r16",
                name);
        checkRates("methods: " + name + ".learningRates", rates);
    }

    static void checkRates(String where, List<Double> rates) {
        rates.forEach(rate -> check(
                rate > 0 && Double.isFinite(rate), "%s must be above 0 and finite, found %s; try 2e-4", where, rate));
        check(rates.stream().distinct().count() == rates.size(), "%s holds a rate twice, found %s", where, rates);
    }

    /** A recipe as it is. */
    static Contender of(String recipe) {
        String file = recipe.substring(Math.max(recipe.lastIndexOf('/'), recipe.lastIndexOf('\\')) + 1);
        return new Contender(file.replaceAll("\\.ya?ml$", ""), recipe, List.of(), List.of());
    }

    /**
     * One of a study's list: a recipe's name or file, or a map of {@code recipe} and, where they differ from it, {@code name},
     * {@code learningRates} and any of the recipe's settings.
     */
    static Contender of(String where, Object item) {
        if (item instanceof String recipe) {
            return of(recipe);
        }
        check(
                item instanceof Map<?, ?> map && map.get("recipe") instanceof String,
                "%s: methods holds %s; name a recipe, such as lora, or write {recipe: lora, name: lora-r16, adapter: {r: 16}}",
                where,
                item);
        Map<String, Object> rest = new LinkedHashMap<>();
        ((Map<?, ?>) item).forEach((key, value) -> rest.put(String.valueOf(key), value));
        Contender plain = of((String) Objects.requireNonNull(rest.remove("recipe")));
        Object name = rest.remove("name");
        List<Double> rates = new ArrayList<>();
        if (rest.remove("learningRates") instanceof List<?> list) {
            for (Object rate : list) {
                rates.add(number(where, rate));
            }
        }
        List<String> changes = new ArrayList<>();
        flatten("", rest, changes);
        return new Contender(name == null ? plain.name : String.valueOf(name), plain.recipe, changes, rates);
    }

    private static double number(String where, Object rate) {
        if (rate instanceof Number number) {
            return number.doubleValue();
        }
        try {
            return Double.parseDouble(String.valueOf(rate)); // YAML takes 1e-4 for text
        } catch (NumberFormatException e) {
            throw new EspalierException(
                    "%s: learningRates holds %s; write numbers, such as 2.0e-4".formatted(where, rate), e);
        }
    }

    /** A map as settings with dotted names; lists and texts as JSON, which is YAML too. */
    static void flatten(String prefix, Map<?, ?> map, List<String> into) {
        map.forEach((key, value) -> {
            String name = prefix + key;
            if (value instanceof Map<?, ?> nested && !nested.isEmpty()) {
                flatten(name + ".", nested, into);
            } else {
                into.add(name + "=" + (value instanceof String text && plain(text) ? text : Json.text(value)));
            }
        });
    }

    /** Whether a text is read back as itself without quotes. */
    private static boolean plain(String text) {
        return text.matches("[A-Za-z_/.][A-Za-z0-9_/.-]*")
                && !text.matches("(?i)true|false|null|yes|no|on|off|[.]inf|[.]nan");
    }

    /** What the catalogue has under the recipe's name; else its initialiser, else its kind of adapter. */
    static Method method(String recipe, Recipe read) {
        return Catalog.methods().values().stream()
                .filter(m -> Recipe.recipeOf(m.name()).equals(recipe))
                .findFirst()
                .orElseGet(() -> {
                    var spec = read.adapter().spec();
                    check(
                            spec != null,
                            "%s goes on with an adapter (adapter.from), and a study starts all alike; name a method",
                            recipe);
                    Initializer initializer = Objects.requireNonNull(spec).initializer();
                    return initializer != null ? initializer : spec.type();
                });
    }

    /** The settings that its rank follows, with the recipe's values; empty where it has none. */
    static Map<String, Integer> ranks(Recipe read) {
        var spec = Objects.requireNonNull(read.adapter().spec());
        List<String> known = spec.type().fields().stream().map(f -> f.name()).toList();
        Map<String, Object> written = new LinkedHashMap<>();
        if (read.settings().get("adapter") instanceof Map<?, ?> adapter) {
            adapter.forEach((key, value) -> written.put(String.valueOf(key), value));
        }
        for (List<String> names : RANKS) {
            if (known.containsAll(names)) {
                Map<String, Integer> ranks = new LinkedHashMap<>();
                for (String name : names) {
                    Object value = written.getOrDefault(
                            name,
                            spec.type().fields().stream()
                                    .filter(f -> f.name().equals(name))
                                    .findFirst()
                                    .orElseThrow()
                                    .defaultValue());
                    if (value instanceof Number number && number.intValue() > 0) {
                        ranks.put(name, number.intValue());
                    }
                }
                return ranks;
            }
        }
        return Map.of();
    }
}
