package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Module;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * Which layers of a network are meant.
 *
 * <p>An item of a list means the modules of that path, or whose path ends in a dot and the item: {@code q_proj}, {@code
 * self_attn.q_proj}. In an item, {@code *} stands for anything but a dot, {@code **} for anything, {@code ?} for one
 * character: {@code model.layers.*.mlp.**}. The item {@value #ALL_LINEAR} means every linear layer but the network's
 * output heads.
 *
 * @param items what to adapt
 * @param regex whether items is a single regular expression for whole paths, as a text instead of a list means in PEFT
 * @param exclude items to leave out again
 * @param layersToTransform numbers of the blocks to keep to, from 0; empty for all
 * @param layersPattern name of the list of blocks, where it is not the first with numbers: {@code layers}, {@code h}
 */
public record Targets(
        List<String> items,
        boolean regex,
        List<String> exclude,
        List<Integer> layersToTransform,
        List<String> layersPattern) {

    /** The item for every linear layer. */
    public static final String ALL_LINEAR = "all-linear";

    /** Every linear layer but the heads. */
    public static final Targets ALL = Targets.of(ALL_LINEAR);

    /** No layer, for methods that stand on none. */
    public static final Targets NONE = new Targets(List.of(), false, List.of(), List.of(), List.of());

    /** Checks expressions. */
    public Targets {
        items = List.copyOf(items);
        exclude = List.copyOf(exclude);
        layersToTransform = List.copyOf(layersToTransform);
        layersPattern = List.copyOf(layersPattern);
        if (regex) {
            compile("target_modules", items.get(0));
        }
    }

    /** Items of a list. */
    public static Targets of(String... items) {
        return new Targets(List.of(items), false, List.of(), List.of(), List.of());
    }

    /** Reads PEFT's fields: {@code target_modules}, in recipes also called {@code targets}, and those that narrow it down. */
    public static Targets read(Fields f) {
        String field = f.has("targets") ? "targets" : "target_modules";
        Object given = f.any(field);
        List<String> items = f.strings(field, List.of(ALL_LINEAR));
        boolean regex = given instanceof String s && !s.equalsIgnoreCase(ALL_LINEAR);
        return new Targets(
                items,
                regex,
                f.strings("exclude_modules", List.of()),
                f.integers("layers_to_transform", List.of()),
                f.strings("layers_pattern", List.of()));
    }

    /**
     * The layers meant, in the network's order.
     *
     * @param heads output layers that {@value #ALL_LINEAR} leaves alone
     * @param kept items whose modules are trained as they are (PEFT's modules_to_save) and so take no adapter
     * @param strict whether an item that matches nothing is an error: yes for what a user writes, no for a file, whose
     *     tensors say what it is for
     * @throws EspalierException if an item matches nothing, or only what cannot be adapted, naming near names
     */
    public List<Site> select(Module network, Collection<Layer> heads, List<String> kept, boolean strict) {
        check(!items.isEmpty(), "target_modules is empty; name modules such as q_proj, or all-linear");
        Map<String, Module> modules = network.namedModules();
        Map<String, Layer> chosen = new LinkedHashMap<>();
        Set<String> unmatched = new LinkedHashSet<>(items);
        Set<String> unadaptable = new LinkedHashSet<>();
        modules.forEach((path, module) -> {
            for (String item : items) {
                if (!matches(item, path, module, heads)) {
                    continue;
                }
                unmatched.remove(item);
                if (module instanceof Layer layer) {
                    if (wanted(item, path) && !any(exclude, path) && !within(kept, path)) {
                        chosen.put(path, layer);
                    }
                } else {
                    unadaptable.add(path + " (" + module.getClass().getSimpleName() + ")");
                }
            }
        });
        if (strict && !unmatched.isEmpty()) {
            throw new EspalierException("target_modules: "
                    + unmatched.stream()
                            .map(item -> regex
                                    ? "the regular expression %s matches no module path as a whole; for a plain name write a list, [%s]"
                                            .formatted(item, item)
                                    : "%s matches no module of this network; %s".formatted(item, hint(item, modules)))
                            .collect(Collectors.joining("; ")));
        }
        if (strict) {
            exclude.forEach(item -> check(
                    modules.keySet().stream().anyMatch(path -> named(item, path)),
                    "exclude_modules: %s matches no module of this network; %s",
                    item,
                    hint(item, modules)));
        }
        check(
                !chosen.isEmpty(),
                "nothing is left to adapt: target_modules %s%s; %s",
                items,
                unadaptable.isEmpty()
                        ? " with what excludes or narrows it selects no layer"
                        : " matches only modules without a weight of their own, such as "
                                + unadaptable.iterator().next(),
                "name linear, Conv1D or embedding layers, or all-linear");
        return chosen.entrySet().stream()
                .map(e -> new Site(e.getKey(), e.getValue()))
                .toList();
    }

    /**
     * The shortest module path at or above a parameter that an item means, or null: {@code classifier} for {@code
     * classifier.dense.weight}, whether or not the network has a module of that name.
     */
    static @Nullable String owner(List<String> items, String parameter) {
        for (int dot = parameter.indexOf('.'); dot > 0; dot = parameter.indexOf('.', dot + 1)) {
            if (any(items, parameter.substring(0, dot))) {
                return parameter.substring(0, dot);
            }
        }
        return null;
    }

    /** Whether an item of a list means a path. */
    static boolean named(String item, String path) {
        if (item.indexOf('*') < 0 && item.indexOf('?') < 0) {
            return path.equals(item) || path.endsWith("." + item);
        }
        return glob(item).matcher(path).matches();
    }

    static boolean any(List<String> items, String path) {
        return items.stream().anyMatch(item -> named(item, path));
    }

    /** Whether a path lies at or below a module that an item means. */
    static boolean within(List<String> items, String path) {
        for (int end = path.length(); end > 0; end = path.lastIndexOf('.', end - 1)) {
            if (any(items, path.substring(0, end))) {
                return true;
            }
        }
        return false;
    }

    /** The known names that a mistyped item may have meant. */
    static String hint(String item, Map<String, Module> modules) {
        Set<String> names = new LinkedHashSet<>();
        modules.keySet().forEach(path -> names.add(path.substring(path.lastIndexOf('.') + 1)));
        modules.forEach((path, module) -> {
            if (module instanceof Layer) {
                names.add(path);
            }
        });
        String near = Nearest.of(item, names);
        if (near != null) {
            return "did you mean " + near + "?";
        }
        List<String> leaves = new ArrayList<>();
        modules.forEach((path, module) -> {
            String leaf = path.substring(path.lastIndexOf('.') + 1);
            if (module instanceof Layer && !leaves.contains(leaf)) {
                leaves.add(leaf);
            }
        });
        return "its layers are called " + String.join(", ", leaves);
    }

    /** Whether these items can be written as they are for PEFT to read. */
    boolean isPlain() {
        return items.stream().noneMatch(i -> i.equalsIgnoreCase(ALL_LINEAR) || (!regex && isGlob(i)))
                && exclude.stream().noneMatch(Targets::isGlob);
    }

    private static boolean isGlob(String item) {
        return item.indexOf('*') >= 0 || item.indexOf('?') >= 0;
    }

    private boolean matches(String item, String path, Module module, Collection<Layer> heads) {
        if (regex) {
            return compile("target_modules", item).matcher(path).matches();
        }
        if (item.equalsIgnoreCase(ALL_LINEAR)) {
            return module instanceof Layer layer && !(layer instanceof Embedding) && !heads.contains(layer);
        }
        return named(item, path);
    }

    /** As in PEFT, layer numbers narrow down names, not whole paths or regular expressions. */
    private boolean wanted(String item, String path) {
        if (layersToTransform.isEmpty() || regex || path.equals(item)) {
            return true;
        }
        if (layersPattern.isEmpty()) {
            Matcher number = Pattern.compile(".*?\\.[^.]*\\.(\\d+)\\..*").matcher(path);
            return number.matches() && layersToTransform.contains(Integer.valueOf(number.group(1)));
        }
        for (String pattern : layersPattern) {
            Matcher number = compile("layers_pattern", "(?:.*?\\.)?(?:" + pattern + ")\\.(?<number>\\d+)\\..*")
                    .matcher(path);
            if (number.matches()) {
                return layersToTransform.contains(Integer.valueOf(number.group("number")));
            }
        }
        return false;
    }

    private static Pattern glob(String item) {
        StringBuilder regex = new StringBuilder("(?:.*\\.)?");
        for (int i = 0; i < item.length(); i++) {
            char c = item.charAt(i);
            if (c == '*' && i + 1 < item.length() && item.charAt(i + 1) == '*') {
                regex.append(".*");
                i++;
            } else if (c == '*') {
                regex.append("[^.]*");
            } else if (c == '?') {
                regex.append("[^.]");
            } else {
                regex.append(Pattern.quote(String.valueOf(c)));
            }
        }
        return Pattern.compile(regex.toString());
    }

    static Pattern compile(String field, String regex) {
        try {
            return Pattern.compile(regex);
        } catch (PatternSyntaxException e) {
            throw new EspalierException("%s: %s is not a regular expression: %s at character %d"
                    .formatted(field, regex, e.getDescription(), e.getIndex() + 1));
        }
    }
}
