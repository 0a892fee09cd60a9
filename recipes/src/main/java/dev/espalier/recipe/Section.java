package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Catalog;
import dev.espalier.io.Fields;
import java.util.List;
import java.util.Map;

/** Recipes of methods that need no training: a section with the name of their command, such as {@code merge: {type: ties}}. */
public final class Section {

    /** Commands whose recipes have no task. */
    private static final List<String> VERBS = List.of("merge", "diagnose", "adapt");

    private Section() {}

    /** Stops if settings are for one of these commands and not for a training. */
    static void checkTrains(String name, Map<String, Object> settings) {
        VERBS.forEach(verb -> check(
                !settings.containsKey(verb),
                "%s is a recipe for espalier %s and trains nothing; see espalier %s --help",
                name,
                verb,
                verb));
    }

    /** Names of the recipes that come with Espalier for a command. */
    public static List<String> recipes(String verb) {
        return Catalog.methods().values().stream()
                .filter(method -> method.verb().equals(verb))
                .map(method -> Recipe.recipeOf(method.name()))
                .filter(Recipe.BUILT_IN::contains)
                .toList();
    }

    /**
     * Reads a recipe.
     *
     * @param name a YAML file, or one of {@link #recipes}
     * @param settings such as {@code density=0.2}, laid over the section
     * @return all of it; the section is {@code fields(verb)}
     * @throws dev.espalier.EspalierException if there is none, or it is for another command
     */
    static Fields read(String name, String verb, List<String> settings) {
        Map<String, Object> given = Recipe.settings(name, Recipe.BUILT_IN);
        check(
                given.containsKey(verb),
                "%s has no section %s; name a recipe for espalier %s: %s",
                name,
                verb,
                verb,
                String.join(", ", recipes(verb)));
        Fields f = Fields.of(
                name,
                Yaml.with(given, settings.stream().map(s -> verb + "." + s).toList()));
        f.ignore("citation");
        return f;
    }
}
