package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import dev.espalier.model.Model;
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
import java.util.Collection;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * A frozen network that carries adapters: several of them by name, some of them active.
 *
 * <pre>{@code
 * AdaptedModel adapted = AdaptedModel.of(pretrained.model());
 * adapted.attach("default", AdapterSpec.of(new Lora.Type(), Lora.Config.of(8, 16), Targets.ALL), new Seed(0));
 * train(adapted.trainableParameters());
 * adapted.merge();
 * }</pre>
 *
 * <p>Active adapters act one on top of the other, in the order in which they were activated; the changes of LoRAs add up. The
 * network's own tensors are never altered: merging puts others in their place and unmerging puts them back, bit for bit. Not
 * for use by several threads at once.
 */
public final class AdaptedModel implements AutoCloseable {

    private final Module network;
    private final Collection<Layer> heads;
    private final Map<String, Attached> attached = new LinkedHashMap<>();
    private List<Attached> active = List.of();
    private final Map<Linear, Parameter> home = new LinkedHashMap<>(); // weights from which tied layers have parted
    private @Nullable List<Merged> merged;

    /** A tensor of the network that a merged one stands in for. */
    private record Merged(Parameter place, Tensor original) {}

    /**
     * A network without adapters, which stops training.
     *
     * @param network stays the caller's to close, after this
     * @param heads output layers that {@link Targets#ALL_LINEAR} leaves alone
     */
    public AdaptedModel(Module network, Collection<? extends Layer> heads) {
        this.network = network;
        this.heads = List.copyOf(heads);
        network.namedParameters().values().forEach(p -> p.trainable(false));
    }

    /** A model without adapters, which stops training. */
    public static AdaptedModel of(Model model) {
        return new AdaptedModel(model, model.heads());
    }

    /** The network underneath, adapted or not as this model stands. */
    public Module network() {
        return network;
    }

    /**
     * The layers that targets mean, in the network's order.
     *
     * @param kept items whose modules are left out
     * @throws EspalierException if an item matches nothing
     */
    public List<Site> sites(Targets targets, List<String> kept) {
        return targets.select(network, heads, kept, true);
    }

    /** What attaching would touch, without touching it. */
    public Plan plan(AdapterSpec<?> spec) {
        List<Site> sites = select(spec);
        AdapterType.Made made = create(spec, sites, new Seed(0));
        Attached dry = new Attached("plan", spec, sites, made);
        try {
            return Plan.of(dry, network);
        } finally {
            dry.close();
        }
    }

    /** Attaches a new adapter that needs no data to start, and makes it the only active one. */
    public Attached attach(String name, AdapterSpec<?> spec, Seed seed) {
        return attach(name, spec, seed, Calibration.NONE);
    }

    /**
     * Attaches a new adapter and makes it the only active one.
     *
     * @param name what to call it; PEFT's own name for the first is {@code default}
     * @param seed of which every tensor takes the stream named after it
     * @param calibration data for initialisers that ask for it
     * @throws EspalierException if the name is taken, or nothing can be adapted as the specification says
     */
    public Attached attach(String name, AdapterSpec<?> spec, Seed seed, Calibration calibration) {
        checkUnmerged("attach an adapter");
        checkNew(name);
        List<Site> sites = select(spec);
        List<Attached> former = active;
        activate(List.of()); // starting values are those of the network alone
        try {
            attached.put(name, start(name, spec, sites, seed, calibration));
        } catch (RuntimeException e) {
            rejoin();
            activate(former);
            throw e;
        }
        activate(name);
        return adapter(name);
    }

    private Attached start(String name, AdapterSpec<?> spec, List<Site> sites, Seed seed, Calibration calibration) {
        Attached made = new Attached(name, spec, sites, create(spec, sites, seed));
        try (Scope scope = Scope.open()) {
            made.partings(network).forEach(this::part);
            made.copyFrom(network);
            Initializer initializer = initializer(spec);
            if (initializer != null) {
                initializer.initialize(made, calibration, seed);
                made.settle();
            }
            return made;
        } catch (RuntimeException e) {
            made.close();
            throw e;
        }
    }

    /** Stops if an adapter cannot be called so. */
    void checkNew(String name) {
        check(
                !name.isEmpty() && name.indexOf('/') < 0 && name.indexOf('\\') < 0 && name.indexOf('.') < 0,
                "'%s' cannot be an adapter's name, for it becomes a folder; use letters, digits and dashes",
                name);
        check(
                !attached.containsKey(name),
                "there is an adapter called %s already; remove it first, or choose another name",
                name);
    }

    private <C> AdapterType.Made create(AdapterSpec<C> spec, List<Site> sites, Seed seed) {
        if (spec.strict()) {
            spec.type().check(spec.config(), sites);
        }
        AdapterType.Made made = spec.type().create(spec.config(), sites, seed);
        NetworkAdapter onNetwork = spec.type().createOn(network, spec.config(), seed);
        return onNetwork == null ? made : new AdapterType.Made(made.adapters(), made.shared(), onNetwork);
    }

    private static <C> @Nullable Initializer initializer(AdapterSpec<C> spec) {
        String named = spec.type().initializer(spec.config());
        return spec.initializer() != null || named.isEmpty() ? spec.initializer() : Catalog.initializer(named);
    }

    private List<Site> select(AdapterSpec<?> spec) {
        if (spec.strict()) {
            Set<String> parameters = network.namedParameters().keySet();
            spec.modulesToSave()
                    .forEach(item -> check(
                            parameters.stream().anyMatch(path -> Targets.owner(List.of(item), path) != null),
                            "modules_to_save: %s matches no module of this network; %s",
                            item,
                            Targets.hint(item, network.namedModules())));
        }
        if (!spec.type().onLayers()) {
            return List.of();
        }
        return spec.targets().select(network, heads, spec.modulesToSave(), spec.strict());
    }

    /** Names of all adapters, in the order they came. */
    public List<String> names() {
        return List.copyOf(attached.keySet());
    }

    /** Names of the active adapters, lowest first. */
    public List<String> active() {
        return active.stream().map(Attached::name).toList();
    }

    /**
     * An adapter by name.
     *
     * @throws EspalierException if there is none
     */
    public Attached adapter(String name) {
        Attached found = attached.get(name);
        if (found == null) {
            throw new EspalierException(
                    "there is no adapter called %s; %s".formatted(name, Nearest.hint(name, attached.keySet())));
        }
        return found;
    }

    /**
     * Makes these adapters and no others active, the first one lowest. Those that were made to train do so while they are
     * active.
     *
     * @throws EspalierException if there is none of a name, or two bring their own version of the same parameter
     */
    public void activate(String... names) {
        List<Attached> wanted = new ArrayList<>();
        for (String name : names) {
            Attached adapter = adapter(name);
            check(!wanted.contains(adapter), "%s is named twice; name each adapter once", name);
            wanted.add(adapter);
        }
        checkUnmerged("activate adapters");
        Map<Parameter, String> owners = new LinkedHashMap<>();
        for (Attached adapter : wanted) {
            for (Copy copy : adapter.copies().values()) {
                String other = owners.put(copy.place, adapter.name());
                check(
                        other == null,
                        "adapters %s and %s both bring their own version of one parameter (modules_to_save or bias) and cannot be active together",
                        other,
                        adapter.name());
            }
        }
        List<String> whole = wanted.stream()
                .filter(a -> a.made().onNetwork() != null)
                .map(Attached::name)
                .toList();
        check(
                whole.size() <= 1,
                "adapters %s each stand before all that the network reads; activate one of them",
                whole);
        activate(wanted);
    }

    /** Lets the network compute as if it had no adapters, until {@link #activate}. */
    public void disable() {
        checkUnmerged("disable adapters");
        activate(List.of());
    }

    /**
     * Runs something on the network as if it had no adapters. Unlike {@link #disable} it leaves what trains and its gradients
     * alone, so it may be used in the midst of a training step.
     */
    public <T> T unadapted(Supplier<T> work) {
        checkUnmerged("run without adapters");
        active.forEach(a -> a.copies().values().forEach(copy -> copy.swap(false)));
        substitute(false);
        try {
            return work.get();
        } finally {
            active.forEach(a -> a.copies().values().forEach(copy -> copy.swap(true)));
            substitute(true);
        }
    }

    private void activate(List<Attached> wanted) {
        active.forEach(a -> a.copies().values().forEach(copy -> copy.swap(false)));
        attached.values().forEach(a -> a.trainable(wanted.contains(a)));
        wanted.forEach(a -> a.copies().values().forEach(copy -> copy.swap(true)));
        active = List.copyOf(wanted);
        substitute(true);
    }

    /** Puts the active adapters on their layers, or takes all off. */
    private void substitute(boolean on) {
        attached.values().forEach(a -> {
            a.sites().forEach(site -> site.layer().substitute(null));
            a.onNetwork(network, false);
        });
        if (on) {
            chains().forEach((layer, top) -> layer.substitute((x, self) -> top.forward(x)));
            active.forEach(a -> a.onNetwork(network, true));
        }
    }

    /** What the active adapters make of each layer they touch. */
    private Map<Layer, Base> chains() {
        Map<Layer, Base> chains = new LinkedHashMap<>();
        for (Attached adapter : active) {
            for (Site site : adapter.sites()) {
                Base below = chains.getOrDefault(site.layer(), new Base.Ground(site.layer()));
                chains.put(site.layer(), adapter.on(site.path(), below));
            }
        }
        return chains;
    }

    /**
     * What training moves, by the keys of PEFT's files; with several active adapters each key has the adapter's name and a
     * slash in front.
     */
    public Map<String, Parameter> trainableParameters() {
        Map<String, Parameter> all = new LinkedHashMap<>();
        for (Attached adapter : active) {
            adapter.parameters().forEach((key, p) -> {
                if (p.isTrainable()) {
                    all.put(active.size() == 1 ? key : adapter.name() + "/" + key, p);
                }
            });
        }
        return all;
    }

    /** What merging did to one layer: the largest change of a weight, and the largest error of rounding it to its type. */
    public record Change(String path, double maxChange, double maxRounding) {}

    /**
     * Folds the active adapters into weights that take the place of the network's: added in float32 at least, rounded once.
     * Tied layers part until {@link #unmerge}, for one of them is adapted and the other is not. Weights that train whole are in
     * their places already, and stay.
     *
     * @return what changed, a layer an entry, and a parameter where it trained whole
     * @throws EspalierException if no adapter is active, or one cannot be merged; then nothing changed
     */
    public List<Change> merge() {
        checkUnmerged("merge");
        check(!active.isEmpty(), "no adapter is active, so there is nothing to merge; activate one");
        active.forEach(a -> check(
                a.made().onNetwork() == null,
                "%s stands before what the network reads and changes no weight, so it cannot be merged; leave it as it is",
                a.name()));
        List<Change> changes = new ArrayList<>();
        Map<Layer, Base.Affine> results = new LinkedHashMap<>();
        try (Grad off = Grad.off();
                Scope all = Scope.open()) {
            for (Map.Entry<Layer, Base> e : chains().entrySet()) {
                Layer layer = e.getKey();
                try (Scope scope = Scope.open()) {
                    Base.Affine before = Base.Affine.of(layer);
                    Base.Affine after = e.getValue().affine();
                    check(
                            after.bias() == null || layer.biasParameter() != null,
                            "%s has no bias that the adapter's (lora_bias) could be merged into; leave it unmerged",
                            layer.path());
                    Tensor weight = layer.stored(after.weight().to(layer.dtype()));
                    Tensor bias = changedBias(after, layer);
                    changes.add(new Change(
                            layer.path(),
                            gap(after.weight(), before.weight()),
                            rounding(after.weight(), layer.dtype())));
                    results.put(
                            layer,
                            new Base.Affine(owned(weight, layer, scope), bias == null ? null : scope.promote(bias)));
                }
            }
            active.forEach(a -> a.whole().forEach((path, copy) -> changes.add(new Change(path, copy.change(), 0))));
            List<Merged> places = new ArrayList<>();
            results.keySet()
                    .forEach(layer ->
                            Attached.tied(network, layer.weightParameter()).forEach(this::part));
            results.forEach((layer, affine) -> {
                places.add(new Merged(
                        layer.weightParameter(), layer.weightParameter().exchange(affine.weight())));
                Parameter bias = layer.biasParameter();
                if (bias != null && affine.bias() != null) {
                    places.add(new Merged(bias, bias.exchange(affine.bias())));
                }
            });
            merged = places;
        }
        substitute(false);
        return changes;
    }

    /** Puts the network's own tensors back and the active adapters on their layers again. */
    public void unmerge() {
        List<Merged> places = merged;
        check(places != null, "nothing is merged; merge first");
        Objects.requireNonNull(places)
                .forEach(m -> m.place().exchange(m.original()).close());
        merged = null;
        rejoin();
        substitute(true);
    }

    /** Whether the active adapters are folded into the weights. */
    public boolean isMerged() {
        return merged != null;
    }

    /** Takes an adapter off and frees it. */
    public void remove(String name) {
        checkUnmerged("remove an adapter");
        Attached gone = adapter(name);
        List<Attached> rest = active.stream().filter(a -> a != gone).toList();
        activate(List.of());
        attached.remove(name);
        gone.close();
        rejoin();
        activate(rest);
    }

    /** Takes all adapters off and frees them; the network is as it was, and stays open. */
    @Override
    public void close() {
        if (merged != null) {
            unmerge();
        }
        names().forEach(this::remove);
    }

    /** Gives a tied layer a place of its own over the same memory. */
    private void part(Linear linear) {
        if (!home.containsKey(linear)) {
            home.put(linear, linear.weightParameter());
            linear.bind(new Parameter(linear.weightParameter().tensor().detach()));
        }
    }

    /** Ties layers again that have no more reason to be apart. */
    private void rejoin() {
        Set<Linear> apart = new HashSet<>();
        attached.values()
                .forEach(a -> a.copies()
                        .values()
                        .forEach(copy -> home.keySet().forEach(linear -> {
                            if (copy.place == linear.weightParameter() || copy.place == home.get(linear)) {
                                apart.add(linear);
                            }
                        })));
        for (Linear linear : List.copyOf(home.keySet())) {
            if (!apart.contains(linear)) {
                Parameter own = linear.weightParameter();
                linear.bind(Objects.requireNonNull(home.remove(linear)));
                own.tensor().close();
            }
        }
    }

    /** Stops if adapters are folded into the weights. */
    void checkUnmerged(String what) {
        check(merged == null, "adapters %s are merged; unmerge before you %s", active(), what);
    }

    /** The bias as the layer would hold it, or null if it is the one it holds. */
    private static @Nullable Tensor changedBias(Base.Affine after, Layer layer) {
        Parameter place = layer.biasParameter();
        return place == null || after.bias() == null || after.bias() == place.tensor()
                ? null
                : after.bias().to(layer.dtype());
    }

    /** The tensor with memory of its own, in the scope around. */
    private static Tensor owned(Tensor t, Layer layer, Scope scope) {
        boolean shared = layer.weightParameter().tensor() == t;
        return scope.promote(shared ? t.clone() : t);
    }

    private static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    private static double rounding(Tensor exact, DType type) {
        return exact.dtype() == type ? 0 : gap(exact.to(type).to(exact.dtype()), exact);
    }
}
