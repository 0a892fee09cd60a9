package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** One named adapter on a network: what stands on each of its layers, and the trained copies that go with it. */
public final class Attached {

    /** What PEFT puts before a path of the network. */
    static final String PREFIX = "base_model.model.";

    private static final String SHORT_PREFIX = "base_model."; // where PEFT wraps no layers

    private final String name;
    private AdapterSpec<?> spec;
    private PeftFolder.@Nullable Info info;
    private final List<Site> sites;
    private final AdapterType.Made made;
    private final Map<String, LoraFactors> offsets = new LinkedHashMap<>(); // by path
    private final Map<String, Copy> copies = new LinkedHashMap<>(); // by key in the file
    private final Map<String, Copy> alsoNamed = new LinkedHashMap<>(); // by the keys of tied modules
    private final Map<String, Copy> whole = new LinkedHashMap<>(); // what the method trains as it is, by path
    private final List<Parameter> moving = new ArrayList<>(); // those of the adapters that train

    Attached(String name, AdapterSpec<?> spec, List<Site> sites, AdapterType.Made made) {
        this.name = name;
        this.spec = spec;
        this.sites = sites;
        this.made = made;
        settle();
    }

    /** Looks again at what trains, after a start that has chosen among what the method made. */
    void settle() {
        moving.clear();
        made.parameters().values().stream().filter(Parameter::isTrainable).forEach(moving::add);
    }

    /** What it is called on this network. */
    public String name() {
        return name;
    }

    /** What was asked for. */
    public AdapterSpec<?> spec() {
        return spec;
    }

    /** What the files that it was read from say about the network, or null. */
    public PeftFolder.@Nullable Info info() {
        return info;
    }

    void info(PeftFolder.Info about) {
        info = about;
    }

    /** Remembers how it was started, where its start came from a file. */
    void startedBy(AdapterSpec<?> original) {
        spec = original;
    }

    /** The layers it is on, in the network's order. */
    public List<Site> sites() {
        return sites;
    }

    /** What stands on a layer; null if the method leaves it as it is, for instance because no rank is left for it. */
    public @Nullable Adapter at(String path) {
        return made.adapters().get(path);
    }

    /**
     * Everything that is its own, by the key that PEFT's file has for it: {@code
     * base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight}. Trained copies of the network's parameters are among
     * them only while the adapter is active.
     */
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> all = made.parameters();
        copies.forEach((key, copy) -> {
            if (copy.tensor() == copy.place.tensor()) {
                all.put(key, copy.place);
            }
        });
        return all;
    }

    /** The tensors to be saved, by key, active or not. */
    Map<String, Tensor> tensors() {
        Map<String, Tensor> all = new LinkedHashMap<>(made.tensors());
        copies.forEach((key, copy) -> all.put(key, copy.tensor()));
        alsoNamed.forEach((key, copy) -> all.put(key, copy.tensor()));
        return all;
    }

    /** Settings and tensors as they go into the files, in the current scope; trained copies included. */
    Written written() {
        return written(spec);
    }

    private <C> Written written(AdapterSpec<C> of) {
        AdapterType.Saved<C> saved = of.type().saved(of.config(), made);
        Map<String, Tensor> all = new LinkedHashMap<>(saved.tensors());
        copies.forEach((key, copy) -> all.put(key, copy.tensor()));
        alsoNamed.forEach((key, copy) -> all.put(key, copy.tensor()));
        return new Written(of.type().write(saved.config()), all);
    }

    /** Settings by PEFT's names, and tensors by key. */
    record Written(Map<String, @Nullable Object> config, Map<String, Tensor> tensors) {}

    /** What a file holds for the adapter's own parameters where it is not these, by key, or null. */
    @Nullable
    Map<String, Tensor> restored(TensorSource file) {
        return restored(spec, file);
    }

    private <C> @Nullable Map<String, Tensor> restored(AdapterSpec<C> of, TensorSource file) {
        return of.type().restored(of.config(), made, file);
    }

    /** What the method does in a training. */
    public AdapterType.Parts parts(Seed seed) {
        return parts(spec, seed);
    }

    private <C> AdapterType.Parts parts(AdapterSpec<C> of, Seed seed) {
        return of.type().parts(of.config(), this, seed);
    }

    /** What the method made for the layers. */
    public AdapterType.Made made() {
        return made;
    }

    Map<String, Copy> copies() {
        return copies;
    }

    Map<String, LoraFactors> offsets() {
        return offsets;
    }

    /**
     * Starts a low-rank adapter from given factors without changing what the layer computes: the product they start with is
     * taken out of the layer again, by a frozen correction that the adapter keeps.
     *
     * @param path the layer
     * @param a A0 [rank, in]
     * @param b B0 [out, rank]
     */
    public void start(String path, Tensor a, Tensor b) {
        LowRank adapter = lowRank(path);
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            adapter.a().tensor().copy_(a);
            adapter.b().tensor().copy_(b);
            hold(path, adapter.a().tensor(), adapter.b().tensor(), adapter.scale());
        }
    }

    /** Keeps frozen factors whose product is taken out of a layer, in place of those it kept before. */
    void hold(String path, Tensor a0, Tensor b0, double scale) {
        LoraFactors former = offsets.put(
                path,
                new LoraFactors(a0.detach().clone().keep(), b0.detach().clone().keep(), scale, null));
        if (former != null) {
            former.a().close();
            former.b().close();
        }
    }

    /**
     * The low-rank adapter on a layer.
     *
     * @throws EspalierException if the adapter is of another kind
     */
    public LowRank lowRank(String path) {
        Adapter adapter = at(path);
        if (adapter instanceof LowRank lowRank) {
            return lowRank;
        }
        throw new EspalierException(
                "an initialiser for low-rank factors cannot start %s on %s, which has none; use it with lora or dora"
                        .formatted(spec.type().name(), path));
    }

    /**
     * The change that it makes to a layer as exact factors, or null if it is not a plain LoRA at heart. They share memory with the
     * adapter's own.
     */
    public @Nullable LoraFactors exactFactors(String path) {
        return exactFactors(path, 0);
    }

    /** The same for a bound on the rank, 0 for none; see {@link LoraExpressible#toLora(int)}. */
    @Nullable
    LoraFactors exactFactors(String path, int maxRank) {
        if (!(at(path) instanceof LoraExpressible expressible)) {
            return null;
        }
        LoraFactors own = maxRank == 0 ? expressible.toLora() : expressible.toLora(maxRank);
        LoraFactors offset = offsets.get(path);
        return offset == null ? own : own.plus(offset.negated());
    }

    /** This adapter's part of a layer's chain, on what lies below. */
    public Base on(String path, Base below) {
        Adapter adapter = at(path);
        if (adapter == null) {
            return below;
        }
        LoraFactors offset = offsets.get(path);
        return new Base.Link(adapter, offset == null ? below : new Base.Link(new Offset(offset), below));
    }

    void trainable(boolean trains) {
        moving.forEach(p -> p.trainable(trains));
    }

    /** No longer trains, active or not. */
    void freeze() {
        trainable(false);
        moving.clear();
        copies.values().forEach(copy -> copy.tensor().requiresGrad_(false));
    }

    /** Makes copies of biases and of modules that train beside the adapters. */
    void copyFrom(Module network) {
        Set<String> trained = trained(network);
        network.namedParameters().forEach((path, place) -> {
            boolean kept = Targets.owner(spec.modulesToSave(), path) != null;
            if (kept || trained.contains(path)) {
                Copy copy = copy(prefix() + path, place, true);
                if (!kept) {
                    whole.put(path, copy);
                }
            }
        });
        if (spec.ensureWeightTying()) { // PEFT writes what is tied once for each of its names
            network.namedParameters().forEach((path, place) -> {
                if (copies.values().stream().anyMatch(copy -> copy.place == place)
                        && !copies.containsKey(prefix() + path)) {
                    copy(prefix() + path, place, true);
                }
            });
        }
        if (spec.bias() == AdapterSpec.Bias.ALL) {
            network.namedParameters().forEach((path, place) -> {
                if (path.contains("bias") && Targets.owner(spec.modulesToSave(), path) == null) {
                    copy(biasKey(path), place, true);
                }
            });
        } else if (spec.bias() == AdapterSpec.Bias.LORA_ONLY) {
            sites.forEach(site -> {
                Parameter place = site.layer().biasParameter();
                if (place != null) {
                    copy(biasKey(site.path() + ".bias"), place, true);
                }
            });
        }
    }

    /** The copies of parameters that the method itself trains as they are, by their path in the network. */
    Map<String, Copy> whole() {
        return whole;
    }

    /** Paths of the parameters that the method trains as they are. */
    Set<String> trained(Module network) {
        return trained(spec, network);
    }

    private <C> Set<String> trained(AdapterSpec<C> of, Module network) {
        return of.type().trained(of.config(), sites, network);
    }

    /** What PEFT puts before the path of a copy. */
    private String prefix() {
        return made.onNetwork() == null ? PREFIX : SHORT_PREFIX;
    }

    /** Puts what stands on the whole network there, or takes it off. */
    void onNetwork(Module network, boolean on) {
        if (made.onNetwork() != null) {
            made.onNetwork().apply(network, on);
        }
    }

    /** As PEFT names it: the bias of an adapted layer belongs to its base_layer. */
    private String biasKey(String path) {
        int dot = path.lastIndexOf('.');
        String owner = path.substring(0, Math.max(dot, 0));
        return PREFIX + (at(owner) == null ? path : owner + ".base_layer" + path.substring(dot));
    }

    /** Its own versions of parameters of the network (modules_to_save, biases), by key in the file, active or not. */
    public Map<String, Tensor> kept() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        copies.forEach((key, copy) -> all.put(key, copy.tensor()));
        return all;
    }

    /** Adds a copy of a parameter unless another key has one already. */
    Copy copy(String key, Parameter place, boolean trained) {
        for (Copy known : copies.values()) {
            if (known.place == place) {
                alsoNamed.put(key, known);
                return known;
            }
        }
        Copy copy = new Copy(place, trained);
        copies.put(key, copy);
        return copy;
    }

    /** Tied layers that have to part for this adapter to train one of them and not the other. */
    List<Linear> partings(Module network) {
        if (spec.ensureWeightTying()) {
            return List.of();
        }
        List<Linear> partings = new ArrayList<>();
        network.namedParameters().forEach((path, place) -> {
            if (Targets.owner(spec.modulesToSave(), path) != null) {
                partings.addAll(tied(network, place));
            }
        });
        return partings;
    }

    /** The linear layers whose weight another module holds too, if {@code place} is such a weight. */
    static List<Linear> tied(Module network, Parameter place) {
        List<Linear> linears = new ArrayList<>();
        int holders = 0;
        for (Module module : network.namedModules().values()) {
            if (module instanceof Layer layer && layer.weightParameter() == place) {
                holders++;
                if (layer instanceof Linear linear) {
                    linears.add(linear);
                }
            }
        }
        return holders > 1 ? linears : List.of();
    }

    /**
     * How far the adapter moves its layers.
     *
     * @return Frobenius norm of all changes of weights and copies together; NaN if a part of it is no weight
     */
    public double changeNorm() {
        if (made.onNetwork() != null) {
            return Double.NaN;
        }
        double sum = 0;
        try (Grad off = Grad.off()) {
            for (Site site : sites) {
                try (Scope scope = Scope.open()) {
                    double norm = changeNorm(site);
                    sum += norm * norm;
                }
            }
            for (Copy copy : copies.values()) {
                try (Scope scope = Scope.open()) {
                    sum += square(
                            copy.tensor().to(DType.FLOAT64).sub(copy.original().to(DType.FLOAT64)));
                }
            }
        }
        return Math.sqrt(sum);
    }

    private double changeNorm(Site site) {
        if (at(site.path()) == null) {
            return 0;
        }
        LoraFactors exact = exactFactors(site.path());
        if (exact != null) {
            return exact.norm();
        }
        if (!(at(site.path()) instanceof Mergeable)) {
            return Double.NaN;
        }
        Base ground = new Base.Ground(site.layer());
        Base.Affine before = ground.affine();
        Base.Affine after = on(site.path(), ground).affine();
        double sum = square(after.weight().sub(before.weight()));
        if (after.bias() != null) {
            sum += square(before.bias() == null ? after.bias() : after.bias().sub(before.bias()));
        }
        return Math.sqrt(sum);
    }

    private static double square(Tensor t) {
        double norm = t.norm().item();
        return norm * norm;
    }

    void close() {
        made.adapters().values().forEach(Adapter::close);
        made.shared().values().forEach(p -> p.tensor().close());
        if (made.onNetwork() != null) {
            made.onNetwork().parameters().values().forEach(p -> p.tensor().close());
        }
        copies.values().forEach(Copy::close);
        offsets.values().forEach(offset -> {
            offset.a().close();
            offset.b().close();
        });
    }

    /** Takes a frozen product out of a layer: y - s (x A0ᵀ) B0ᵀ. */
    private record Offset(LoraFactors start) implements Adapter, Mergeable {

        @Override
        public Tensor forward(Tensor x, Base base) {
            check(
                    !(base.layer() instanceof dev.espalier.nn.Embedding),
                    "the embedding %s cannot be started by an initialiser for linear layers",
                    base.layer().path());
            return start.negated().forward(x, base, 0);
        }

        @Override
        public Base.Affine merge(Base.Affine base) {
            return start.negated().merge(base);
        }

        @Override
        public Map<String, Parameter> parameters() {
            return Map.of();
        }
    }
}
