package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.model.Inner;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a network kept of a larger one that it was cut out of, so that an adapter trained on it fits the larger one again: {@value
 * Models#CUT} in a model folder, which goes along when the model is trained, merged or quantised.
 *
 * @param base name of the larger model, or its absolute path
 * @param sha256 of its weights
 * @param groups what was cut; empty where weights were only masked and all shapes are the larger model's
 */
public record Cut(String base, String sha256, List<Group> groups) {

    private static final int FORMAT = 1;

    /** Copies. */
    public Cut {
        groups = List.copyOf(groups);
    }

    /**
     * Units of one block, of which some were kept.
     *
     * @param path of the module that holds them
     * @param units how many there were
     * @param kept which of them there are still, rising
     * @param parts the layers that hold their channels
     */
    public record Group(String path, int units, List<Integer> kept, List<Part> parts) {

        /** Copies, and checks that kept units are some of all. */
        public Group {
            kept = List.copyOf(kept);
            parts = List.copyOf(parts);
            for (int i = 0; i < kept.size(); i++) {
                int unit = kept.get(i);
                check(
                        unit >= 0 && unit < units && (i == 0 || unit > kept.get(i - 1)),
                        "%s: of units 0 to %d there are kept %s; each must be named once, in rising order",
                        path,
                        units - 1,
                        kept);
            }
        }

        static Group of(Inner inner, List<Integer> kept) {
            return new Group(
                    inner.path(),
                    inner.units(),
                    kept,
                    inner.parts().stream()
                            .map(part -> new Part(part.layer().path(), part.outputs(), part.width()))
                            .toList());
        }
    }

    /**
     * A layer whose outputs, or else inputs, are channels of units.
     *
     * @param layer its path
     * @param width channels of a unit
     */
    public record Part(String layer, boolean outputs, int width) {}

    /** What a model was cut out of, or null. */
    public static @Nullable Cut find(Pretrained pretrained) {
        String text = pretrained.companion(Models.CUT).orElse(null);
        if (text == null) {
            return null;
        }
        String where = pretrained.origin().name() + "/" + Models.CUT;
        Fields f = Fields.of(where, Json.parse(where, text));
        check(f.integer("format") == FORMAT, "%s is of another version; update Espalier", where);
        List<Group> groups = new ArrayList<>();
        for (Fields g : f.fieldsList("groups")) {
            List<Part> parts = new ArrayList<>();
            for (Fields p : g.fieldsList("parts")) {
                parts.add(new Part(p.string("layer"), p.string("side").equals("out"), p.integer("width")));
            }
            groups.add(new Group(g.string("path"), g.integer("units"), g.integers("kept", List.of()), parts));
        }
        return new Cut(f.string("base"), f.string("base_sha256"), groups);
    }

    /** As it stands in the file. */
    public String text() {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("format", FORMAT);
        json.put("base", base);
        json.put("base_sha256", sha256);
        json.put(
                "groups",
                groups.stream()
                        .map(g -> Map.of(
                                "path",
                                g.path,
                                "units",
                                g.units,
                                "kept",
                                g.kept,
                                "parts",
                                g.parts.stream()
                                        .map(p -> Map.of(
                                                "layer", p.layer, "side", p.outputs ? "out" : "in", "width", p.width))
                                        .toList()))
                        .toList());
        return Json.pretty(json);
    }

    /** The same after what is there was cut again. */
    public Cut then(List<Group> further) {
        Map<String, Group> all = new LinkedHashMap<>();
        groups.forEach(g -> all.put(g.path, g));
        further.forEach(next -> all.merge(
                next.path,
                next,
                (first, second) -> new Group(
                        first.path,
                        first.units,
                        second.kept.stream().map(first.kept::get).toList(),
                        first.parts)));
        return new Cut(base, sha256, List.copyOf(all.values()));
    }

    /**
     * A change of a layer's weight as one of the larger model's: rows of B and columns of A go where their channels came from,
     * and the others are 0.
     *
     * @param path the layer's
     * @return in the current scope; the given one if nothing was cut of this layer
     */
    public LoraFactors scatter(String path, LoraFactors factors) {
        LoraFactors f = factors;
        for (Group group : groups) {
            for (Part part : group.parts) {
                if (!part.layer.equals(path)) {
                    continue;
                }
                long all = (long) group.units * part.width;
                Tensor places = Inner.channels(group.kept, part.width).to(f.a().device());
                Tensor bias = f.bias();
                f = part.outputs
                        ? new LoraFactors(
                                f.a(),
                                Tensor.zeros(f.b().dtype(), all, f.rank())
                                        .to(f.b().device())
                                        .indexAdd(0, places, f.b()),
                                f.scale(),
                                bias == null
                                        ? null
                                        : Tensor.zeros(bias.dtype(), all)
                                                .to(bias.device())
                                                .indexAdd(0, places, bias))
                        : new LoraFactors(
                                Tensor.zeros(f.a().dtype(), f.rank(), all)
                                        .to(f.a().device())
                                        .indexAdd(1, places, f.a()),
                                f.b(),
                                f.scale(),
                                bias);
            }
        }
        return f;
    }

    /** Whether a parameter of the network lies in a layer of which something was cut. */
    public boolean touches(String parameter) {
        return groups.stream().flatMap(g -> g.parts.stream()).anyMatch(p -> parameter.startsWith(p.layer + "."));
    }
}
