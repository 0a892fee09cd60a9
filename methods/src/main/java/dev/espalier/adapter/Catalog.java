package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import dev.espalier.io.Fields;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/** All methods there are: those named in {@code META-INF/services/dev.espalier.adapter.Method} of any jar. */
public final class Catalog {

    private static final Map<String, Method> METHODS = load();

    private Catalog() {}

    /** Every method by name, in alphabetical order. */
    public static Map<String, Method> methods() {
        return METHODS;
    }

    /**
     * One method.
     *
     * @throws EspalierException if there is none of that name
     */
    public static Method method(String name) {
        Method found = METHODS.get(name);
        if (found == null) {
            throw unknown(name, METHODS.keySet().stream().toList());
        }
        return found;
    }

    /**
     * A method of some kind.
     *
     * @param where the setting that names it, for messages
     * @param example a name that would do
     * @throws EspalierException if there is none of that name, or it is of another kind
     */
    public static <M> M method(String name, Class<M> kind, String where, String example) {
        Method found = method(name);
        if (!kind.isInstance(found)) {
            throw new EspalierException("%s is %s, which is of the kind \"%s\" and has no place there; try %s"
                    .formatted(where, name, found.about().kind(), example));
        }
        return kind.cast(found);
    }

    /**
     * Stops if methods of one recipe cannot be combined.
     *
     * @throws EspalierException with the reason
     */
    public static void checkCombination(Collection<? extends Method> methods) {
        for (Method one : methods) {
            for (Method other : methods) {
                String reason = one == other ? null : one.objection(other);
                check(reason == null, "%s and %s cannot be combined: %s", one.name(), other.name(), reason);
            }
        }
    }

    /** The initialiser that a name with options means, such as {@code pissa_niter_4}. */
    public static Initializer initializer(String name) {
        List<String> known = new ArrayList<>();
        for (Method method : METHODS.values()) {
            if (method instanceof Initializer initializer) {
                Initializer named = initializer.named(name);
                if (named != null) {
                    return named;
                }
                known.add(method.name());
            }
        }
        throw unknown(name, known);
    }

    /**
     * The kind of adapter that an {@code adapter_config.json} describes.
     *
     * @param where the file, for messages
     */
    static AdapterType<?> adapterType(String where, Map<String, Object> config) {
        String peftType = Fields.of(where, config).string("peft_type");
        List<String> known = new ArrayList<>();
        for (Method method : METHODS.values()) {
            if (method instanceof AdapterType<?> type) {
                boolean named = type.peftType().equals(peftType)
                        || type.formerPeftTypes().contains(peftType);
                if (named && type.recognises(config)) {
                    return type;
                }
                known.add(type.peftType());
            }
        }
        throw new EspalierException("%s: peft_type is %s, which is not read here; %s"
                .formatted(where, peftType, Nearest.hint(peftType, known)));
    }

    /** What the catalogue says about a method, as text of several lines. */
    public static String describe(Method method) {
        Method.About about = method.about();
        return """
                %s (%s): %s
                %s

                %s

                Combines with: %s
                Saved: %s
                Merges: %s%s
                Settings:
                %s
                """.formatted(
                        about.name(),
                        about.kind(),
                        about.title(),
                        about.citation(),
                        about.formula().indent(2).stripTrailing(),
                        about.combines(),
                        about.saves(),
                        about.merges() ? "yes" : "no",
                        method.reading().isEmpty() ? "" : "\nOur reading: " + method.reading(),
                        method.fields().stream()
                                .map(field -> line(field, method.meanings().getOrDefault(field.name(), "")))
                                .collect(Collectors.joining("\n")));
    }

    private static String line(Fields.Field field, String meaning) {
        @Nullable Object value = field.defaultValue();
        return "  %-22s %s%s%s"
                .formatted(
                        field.name(),
                        field.type(),
                        field.required() ? ", required" : ", default " + value,
                        meaning.isEmpty() ? "" : ": " + meaning);
    }

    private static EspalierException unknown(String name, List<String> known) {
        return new EspalierException("there is no method %s; %s".formatted(name, Nearest.hint(name, known)));
    }

    private static Map<String, Method> load() {
        Map<String, Method> methods = new TreeMap<>();
        ServiceLoader.load(Method.class, Method.class.getClassLoader()).forEach(m -> methods.put(m.name(), m));
        return java.util.Collections.unmodifiableMap(methods);
    }
}
