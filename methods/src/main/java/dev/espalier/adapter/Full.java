package dev.espalier.adapter;

import dev.espalier.Check;
import dev.espalier.io.Fields;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Seed;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Full fine-tuning: the network's own weights train, and nothing is added. The baseline of all others, and what GaLore, LISA and
 * other methods over whole weights stand on.
 *
 * <p>Howard and Ruder, <i>Universal Language Model Fine-tuning for Text Classification</i>, ACL 2018, arXiv:1801.06146.
 *
 * <pre>{@code
 * y = x W'ᵀ + b',    W', b' start as the network's own W [out, in], b [out]
 * }</pre>
 *
 * <p>As with every adapter the network's own tensors stay as they were: copies train in their place, so that they can be taken
 * off, kept beside others, and merged, which leaves them where they are. Checked by hand against AdamW on the plain network.
 */
public final class Full implements AdapterType<Full.Config> {

    /**
     * Settings.
     *
     * @param parameters which of the network's parameters train, each item a parameter or a module as {@link Targets} names
     *     modules: {@code **}, {@code encoder.layer.*.attention}, {@code bias}
     */
    public record Config(List<String> parameters) {

        /** All parameters. */
        public static final Config DEFAULT = new Config(List.of("**"));

        /** Checks that something is asked for. */
        public Config {
            parameters = List.copyOf(parameters);
            Check.check(!parameters.isEmpty(), "parameters is empty; name parameters or modules, or ** for all");
        }
    }

    @Override
    public About about() {
        return new About(
                "full",
                "adapter",
                "the network's own weights train",
                "Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, arXiv:1801.06146",
                """
                y = x W'ᵀ + b', W' [out, in] and b' [out] start as the network's own
                trains every number of the parameters named; the learning rate is some ten times smaller than LoRA's""",
                "any optimizer, galore and dct-adamw among them; layer samplers; loss terms",
                "the trained tensors as they are (ESPALIER_FULL)",
                true);
    }

    @Override
    public Map<String, String> meanings() {
        return Map.of(
                "parameters",
                "parameters or modules of the network that train; * anything but a dot, ** anything: all");
    }

    @Override
    public String peftType() {
        return "ESPALIER_FULL";
    }

    @Override
    public boolean trainsWeights() {
        return true;
    }

    @Override
    public boolean onLayers() {
        return false;
    }

    @Override
    public Config read(Fields f) {
        return new Config(f.strings("parameters", Config.DEFAULT.parameters()));
    }

    @Override
    public Map<String, @Nullable Object> write(Config config) {
        Map<String, @Nullable Object> json = new LinkedHashMap<>();
        json.put("parameters", config.parameters());
        return json;
    }

    @Override
    public Made create(Config config, List<Site> sites, Seed seed) {
        return new Made(Map.of(), Map.of());
    }

    /** Tied parameters once, by their first path. */
    @Override
    public Set<String> trained(Config config, List<Site> sites, Module network) {
        Map<String, Parameter> all = network.namedParameters();
        config.parameters()
                .forEach(item -> Check.check(
                        all.keySet().stream().anyMatch(path -> Targets.within(List.of(item), path)),
                        "parameters: %s matches no parameter of this network; %s",
                        item,
                        Targets.hint(item, network.namedModules())));
        Set<String> paths = new LinkedHashSet<>();
        Set<Parameter> seen = Collections.newSetFromMap(new IdentityHashMap<>());
        all.forEach((path, p) -> {
            if (Targets.within(config.parameters(), path) && seen.add(p)) {
                paths.add(path);
            }
        });
        return paths;
    }
}
