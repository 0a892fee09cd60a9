package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.ModuleSearch;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * DiffoRA: a search decides which modules get a LoRA of their own; the others of a kind share one.
 *
 * <p>Jiang et al., <i>DiffoRA: Enabling Parameter-Efficient LLM Fine-Tuning via Differential Low-Rank Matrix Adaptation</i>,
 * arXiv:2502.08905.
 *
 * <pre>{@code
 * search: y = x Wᵀ + b + γ s (x Aᵀ) Bᵀ,  γ = σ(θ);   min over θ of L_val(w*(θ), θ),  w*(θ) = argmin over w of L_train(w, θ)
 * then the ⌈ρ N⌉ modules of each layer with the largest γ:  y = x Wᵀ + b + s (x Aᵀ) Bᵀ
 * the others of one kind and shape, over all layers:        y = x Wᵀ + b + s (x Ãᵀ) B̃ᵀ
 * x [.., in]    W [out, in]    A [r, in]    B [out, r]    Ã [r̃, in]    B̃ [out, r̃]    one θ a module
 * }</pre>
 *
 * <p>The paper's body was not to be had: relaxation, two levels, share and the sharing of weights are the abstract's; reconstructed,
 * not confirmed, are the sigmoid, alternation at first order ({@code unrolled} has the other reading), the choice in each layer
 * ({@code selection: global}), fresh factors after the search ({@code restart: false}), what is shared ({@code weight_sharing: false}
 * leaves the others as they are), and all numbers. The search stage follows DARTS, from which this descends. Checked by hand
 * derivation.
 */
public final class Diffora implements Adapter, LoraExpressible {

    /** Among which modules the best are taken. */
    public enum Selection {
        /** Those of each layer. */
        ROW,
        /** All. */
        GLOBAL
    }

    /**
     * DiffoRA's settings.
     *
     * @param rho ρ, share of the modules that get a LoRA of their own, in [0, 1]
     * @param r rank, at least 1
     * @param alpha [lora_alpha] numerator of the scale, positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param sharing [weight_sharing] whether the others share factors, or stay as they are
     * @param sharedRank [shared_r] r̃, at least 1; 0 for r
     * @param selection among which modules the best are taken
     * @param byNorm [select_by_norm] whether γ ‖B A‖ is compared instead of γ
     * @param restart whether training starts from fresh factors, or from γ B
     * @param search how it is searched
     * @param searched whether it has been; then {@code selected} holds
     * @param selected [selected_modules] paths of the modules that have a LoRA of their own
     * @param gamma γ as the search left them, by path
     */
    public record Config(
            double rho,
            int r,
            double alpha,
            double dropout,
            boolean sharing,
            int sharedRank,
            Selection selection,
            boolean byNorm,
            boolean restart,
            ModuleSearch.Config search,
            boolean searched,
            List<String> selected,
            Map<String, Double> gamma) {

        /** Our own throughout. */
        public static final Config DEFAULT = new Config(
                0.5,
                8,
                16,
                0,
                true,
                0,
                Selection.ROW,
                false,
                true,
                ModuleSearch.Config.DEFAULT,
                false,
                List.of(),
                Map.of());

        /** Checks ranges. */
        public Config {
            check(rho >= 0 && rho <= 1, "rho must lie in [0, 1], found %s; try 0.5", rho);
            Lora.Config.of(r, alpha).withDropout(dropout);
            check(sharedRank >= 0, "shared_r must be at least 1, or 0 for r, found %d; try 0", sharedRank);
            selected = List.copyOf(selected);
            gamma = Collections.unmodifiableMap(new LinkedHashMap<>(gamma));
        }

        /** The same after a search. */
        Config found(List<String> paths, Map<String, Double> values) {
            return new Config(
                    rho,
                    r,
                    alpha,
                    dropout,
                    sharing,
                    sharedRank,
                    selection,
                    byNorm,
                    restart,
                    search,
                    true,
                    paths,
                    values);
        }

        int rankOfShared() {
            return sharedRank == 0 ? r : sharedRank;
        }
    }

    /** How DiffoRA is set up, searched, read and written. */
    public static final class Type implements AdapterType<Config>, Initializer {

        @Override
        public About about() {
            return new About(
                    "diffora",
                    "adapter",
                    "a search decides which modules get a LoRA of their own; the others of a kind share one",
                    "Jiang et al., DiffoRA: Enabling Parameter-Efficient LLM Fine-Tuning via Differential Low-Rank Matrix Adaptation,"
                            + " arXiv:2502.08905",
                    """
                    y = x Wᵀ + b + γ s (x Aᵀ) Bᵀ,  γ = sigmoid(θ) in the search, then 1 for a share ρ of each layer's modules
                    trained: r (in + out) a selected module, and r̃ (in + out) once for the others of each kind and shape
                    as we read the abstract: all switches beside rho and r choose between readings of the rest""",
                    "any optimizer; linear layers only; the search takes data before training, half of it to judge by",
                    "A and B of each selected module, one pair a kind of the others, and γ (DIFFORA); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.ofEntries(
                    Map.entry("rho", "ρ, share of the modules that get a LoRA of their own, in [0, 1]"),
                    Map.entry("r", "rank, 1 to the layer's smaller width"),
                    Map.entry("lora_alpha", "numerator of the scale s, above 0; often twice the rank"),
                    Map.entry("lora_dropout", "share of the input dropped in training, in [0, 1)"),
                    Map.entry("weight_sharing", "let the others of a kind share one LoRA; else they stay as they are"),
                    Map.entry("shared_r", "r̃, rank of what is shared, at least 1; 0 for r"),
                    Map.entry(
                            "selection",
                            "where the best are taken: row (in each layer) or global (a layer may get none)"),
                    Map.entry("select_by_norm", "compare γ times the norm of B A instead of γ"),
                    Map.entry("restart", "train from fresh factors after the search, else from γ B"),
                    Map.entry("search_steps", "steps of the search, at least 1; a tenth to a fifth of the training's"),
                    Map.entry("search_warmup", "share of them before γ moves, in [0, 1)"),
                    Map.entry("lr_theta", "learning rate of θ, above 0"),
                    Map.entry("lr_w", "learning rate of A and B in the search, above 0"),
                    Map.entry("unrolled", "judge θ one step of A and B ahead (second order), as DARTS can"),
                    Map.entry("searched", "written by the search: selected_modules holds"),
                    Map.entry("selected_modules", "written by the search: modules with a LoRA of their own"),
                    Map.entry("gamma", "written by the search: γ by module"));
        }

        @Override
        public List<Fields.Field> fields() {
            return AdapterType.super.fields();
        }

        @Override
        public String peftType() {
            return "DIFFORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.number("rho", usual.rho()),
                    f.integer("r", usual.r()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.bool("weight_sharing", usual.sharing()),
                    f.integer("shared_r", usual.sharedRank()),
                    f.choice("selection", usual.selection()),
                    f.bool("select_by_norm", usual.byNorm()),
                    f.bool("restart", usual.restart()),
                    new ModuleSearch.Config(
                            f.integer("search_steps", usual.search().steps()),
                            f.number("search_warmup", usual.search().warmup()),
                            f.number("lr_theta", usual.search().thetaRate()),
                            f.number("lr_w", usual.search().rate()),
                            f.bool("unrolled", usual.search().unrolled())),
                    f.bool("searched", usual.searched()),
                    f.strings("selected_modules", usual.selected()),
                    f.numberMap("gamma", usual.gamma()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("rho", config.rho());
            json.put("r", config.r());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("weight_sharing", config.sharing());
            json.put("shared_r", config.sharedRank());
            json.put("selection", config.selection().name().toLowerCase(Locale.ROOT));
            json.put("select_by_norm", config.byNorm());
            json.put("restart", config.restart());
            json.put("search_steps", config.search().steps());
            json.put("search_warmup", config.search().warmup());
            json.put("lr_theta", config.search().thetaRate());
            json.put("lr_w", config.search().rate());
            json.put("unrolled", config.search().unrolled());
            json.put("searched", config.searched());
            json.put("selected_modules", config.selected());
            json.put("gamma", config.gamma());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.r(), 1).fit(sites);
            Lora.Config.of(config.rankOfShared(), 1).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            Map<String, Adapter> adapters = new LinkedHashMap<>();
            Map<String, Parameter> shared = new LinkedHashMap<>();
            for (Site site : sites) {
                Diffora made = new Diffora(config, site, seed);
                if (config.searched() && !config.selected().contains(site.path())) {
                    made.own.named().values().forEach(p -> p.tensor().close());
                    if (!config.sharing()) {
                        continue;
                    }
                    made.share(config, shared, seed);
                }
                adapters.put(site.path(), made);
            }
            return new Made(adapters, shared);
        }

        @Override
        public Saved<Config> saved(Config config, Made made) {
            List<String> selected = new ArrayList<>();
            Map<String, Double> gamma = new LinkedHashMap<>(config.gamma());
            made.adapters().forEach((path, each) -> {
                Diffora layer = (Diffora) each;
                if (layer.pair == null) {
                    selected.add(path);
                }
                if (!Double.isNaN(layer.gamma)) {
                    gamma.put(path, layer.gamma);
                }
            });
            return new Saved<>(config.found(selected, gamma), made.tensors());
        }

        @Override
        public String initializer(Config config) {
            return config.searched() ? "" : name();
        }

        @Override
        public @Nullable Initializer named(String name) {
            return name.equals(name()) ? this : null;
        }

        @Override
        public boolean isRepeatable() {
            return false;
        }

        @Override
        public String adapter() {
            return name();
        }

        @Override
        public void initialize(Attached adapter, Calibration data, Seed seed) {
            new DifforaSearch((Config) adapter.spec().config(), adapter, data).run(seed);
        }
    }

    private static final Pattern NUMBER = Pattern.compile("^(.*?\\.)?(\\d+)\\.(.*)$");

    /** The layer of the network that a module belongs to: its path to the first number. */
    static String row(String path) {
        Matcher m = NUMBER.matcher(path);
        return m.matches() ? Objects.requireNonNullElse(m.group(1), "") + m.group(2) : "";
    }

    /** What kind of module it is: its path without that number, and its shape. */
    static String kind(String path, long out, long in) {
        Matcher m = NUMBER.matcher(path);
        String type = m.matches() ? m.group(3) : path;
        return "%s.%dx%d".formatted(type.replace('.', '_'), out, in);
    }

    private final Config config;
    private final Site site;
    final Factors own;
    private @Nullable Pair pair; // what it shares, if it has no factors of its own
    double gamma = Double.NaN; // as its search left it

    /** Factors that modules have in common: Ã [r̃, in], B̃ [out, r̃]. */
    private record Pair(Parameter a, Parameter b) {}

    private Diffora(Config config, Site site, Seed seed) {
        this.config = config;
        this.site = site;
        site.linear("diffora");
        own = new Factors(Lora.Config.of(config.r(), config.alpha()).withDropout(config.dropout()), site, seed);
    }

    /** Takes the pair of its kind, made if it is the first to ask. */
    void share(Config config, Map<String, Parameter> shared, Seed seed) {
        String kind = kind(site.path(), site.layer().outFeatures(), site.layer().inFeatures());
        String a = "diffora_A." + kind;
        String b = "diffora_B." + kind;
        if (!shared.containsKey(a)) {
            Factors made = new Factors(config.rankOfShared(), 1, 0, new Site("diffora." + kind, site.layer()), seed);
            shared.put(a, made.a);
            shared.put(b, made.b);
        }
        pair = new Pair(Objects.requireNonNull(shared.get(a)), Objects.requireNonNull(shared.get(b)));
    }

    private double scale() {
        return config.alpha() / (pair == null ? config.r() : config.rankOfShared());
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return forward(x, base, null);
    }

    /** The same with γ [1], where the change is narrow. */
    Tensor forward(Tensor x, Base base, @Nullable Tensor gate) {
        Pair shared = pair;
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            Tensor a = shared == null ? own.a.tensor() : shared.a().tensor();
            Tensor b = shared == null ? own.b.tensor() : shared.b().tensor();
            Tensor dropped = rows.dropout(config.dropout(), base.layer().isTraining());
            Tensor down = dropped.linear(a, null); // [n, r]
            if (gate != null) {
                down = down.mul(gate.to(down.dtype()));
            }
            return y.addmm_(down, b.to(y.dtype()).t(), scale());
        });
    }

    @Override
    public LoraFactors toLora() {
        Pair shared = pair;
        return shared == null
                ? own.factors()
                : new LoraFactors(shared.a().tensor(), shared.b().tensor(), scale(), null);
    }

    @Override
    public Map<String, Parameter> parameters() {
        return pair == null ? own.named() : Map.of();
    }
}
