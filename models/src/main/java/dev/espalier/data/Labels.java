package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

/** The names of the classes; a class's id is its place. Names stay strings, also where they look like numbers. */
public final class Labels {

    private static final int SHOWN = 12;

    private final List<String> names;
    private final Map<String, Integer> ids = new HashMap<>();

    /**
     * @param names in the order of their ids: at least two, none twice
     */
    public Labels(List<String> names) {
        check(
                names.size() >= 2,
                "classification needs at least two labels, found %s; add rows of another class",
                names.isEmpty() ? "none" : "only \"" + names.get(0) + "\"");
        this.names = List.copyOf(names);
        for (String name : names) {
            Integer before = ids.put(name, ids.size());
            check(before == null, "the label \"%s\" stands twice in the list of labels; remove one", name);
        }
    }

    /** The labels of a data set: whole numbers by value, then names by alphabet. */
    public static Labels of(List<Example> examples) {
        TreeSet<String> found = new TreeSet<>(Comparator.comparing((String s) -> !isWhole(s))
                .thenComparing(
                        (a, b) -> isWhole(a) && isWhole(b) ? Long.compare(Long.parseLong(a), Long.parseLong(b)) : 0)
                .thenComparing(Comparator.naturalOrder()));
        for (Example example : examples) {
            if (!(example instanceof Example.Labelled labelled)) {
                throw new EspalierException(
                        "%s: classification needs text and label; name the columns with columns.text "
                                        .formatted(example.source())
                                + "and columns.label");
            }
            found.add(labelled.label());
        }
        return new Labels(new ArrayList<>(found));
    }

    private static boolean isWhole(String name) {
        return name.matches("-?\\d{1,18}");
    }

    /**
     * From a checkpoint's {@code config.json}.
     *
     * @param id2label ids "0", "1", ... to names
     */
    public static Labels fromId2label(Map<String, ?> id2label) {
        List<String> names = new ArrayList<>();
        for (int id = 0; id < id2label.size(); id++) {
            Object name = id2label.get(String.valueOf(id));
            if (name == null) {
                throw new EspalierException("id2label has %d entries but none for %d; its keys must be 0 to %d"
                        .formatted(id2label.size(), id, id2label.size() - 1));
            }
            names.add(name.toString());
        }
        return new Labels(names);
    }

    /** The names, in the order of their ids. */
    public List<String> names() {
        return names;
    }

    /** The number of classes. */
    public int size() {
        return names.size();
    }

    /** The name of a class. */
    public String name(int id) {
        return names.get(id);
    }

    /**
     * The id of an example's label.
     *
     * @throws EspalierException if training knew no such label
     */
    public int id(Example.Labelled example) {
        Integer id = ids.get(example.label());
        if (id == null) {
            String known = String.join(", ", names.subList(0, Math.min(names.size(), SHOWN)));
            throw new EspalierException(
                    "%s: the label \"%s\" does not occur in the training data, which has %s%s; correct it or train with it"
                            .formatted(
                                    example.source(),
                                    example.label(),
                                    known,
                                    names.size() > SHOWN ? " and " + (names.size() - SHOWN) + " more" : ""));
        }
        return id;
    }

    /** For {@code config.json}: "0", "1", ... to names. */
    public Map<String, String> id2label() {
        Map<String, String> map = new LinkedHashMap<>();
        names.forEach(name -> map.put(String.valueOf(map.size()), name));
        return map;
    }

    /** For {@code config.json}: names to ids. */
    public Map<String, Integer> label2id() {
        Map<String, Integer> map = new LinkedHashMap<>();
        names.forEach(name -> map.put(name, map.size()));
        return map;
    }

    @Override
    public String toString() {
        return names.toString();
    }
}
