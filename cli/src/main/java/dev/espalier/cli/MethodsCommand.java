package dev.espalier.cli;

import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Method;
import dev.espalier.recipe.Recipe;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** The catalogue of methods. */
@Command(
        name = "methods",
        description = "Lists the methods, or tells about one: its paper, formula and settings.",
        footer = {"", "Example:  espalier methods", "          espalier methods dora"})
final class MethodsCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Parameters(arity = "0..1", paramLabel = "NAME", description = "a method")
    private @Nullable String name;

    @Option(names = "--json", description = "print JSON")
    private boolean json;

    @Override
    public Integer call() {
        if (name != null) {
            Method method = Catalog.method(name);
            if (json) {
                terminal.json(facts(method));
            } else {
                terminal.line("%s", Catalog.describe(method).stripTrailing());
                String recipe = Recipe.recipeOf(name);
                if (Recipe.BUILT_IN.contains(recipe)) {
                    terminal.line("");
                    terminal.line(
                            method.verb().equals("train")
                                    ? "Try it:  espalier train %2$s --set model=minilm --set task.type=classification"
                                            + " --set task.data=DATA.csv --out out/%2$s"
                                    : "Try it:  espalier %s %s --help",
                            method.verb(),
                            recipe);
                }
            }
            return Main.OK;
        }
        if (json) {
            terminal.json(Map.of(
                    "methods",
                    Catalog.methods().values().stream()
                            .map(MethodsCommand::facts)
                            .toList()));
            return Main.OK;
        }
        List<List<String>> rows = new ArrayList<>();
        for (Method method : Catalog.methods().values()) {
            Method.About about = method.about();
            rows.add(List.of(about.name(), about.kind(), about.title(), arxiv(about.citation())));
        }
        terminal.table(rows);
        terminal.line("");
        terminal.line("espalier methods NAME tells about one.");
        return Main.OK;
    }

    private static Map<String, Object> facts(Method method) {
        Method.About about = method.about();
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("name", about.name());
        facts.put("kind", about.kind());
        facts.put("title", about.title());
        facts.put("citation", about.citation());
        facts.put("merges", about.merges());
        facts.put(
                "settings",
                method.fields().stream()
                        .map(f -> {
                            Map<String, @Nullable Object> field = new LinkedHashMap<>();
                            field.put("name", f.name());
                            field.put("type", f.type());
                            field.put("default", f.defaultValue());
                            return field;
                        })
                        .toList());
        return facts;
    }

    private static String arxiv(String citation) {
        int at = citation.indexOf("arXiv:");
        return at < 0 ? "" : citation.substring(at);
    }
}
