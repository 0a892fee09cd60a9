package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Parameter;
import dev.espalier.rank.Importance;
import dev.espalier.rank.Orthogonality;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Callback;
import dev.espalier.train.LossTerm;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.Schedule;
import dev.espalier.train.StepContext;
import dev.espalier.train.TrainingRun;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.DoubleSupplier;
import org.jspecify.annotations.Nullable;

/**
 * IncreLoRA: a LoRA of rank 1 that gets more ranks during training where they matter most.
 *
 * <p>Zhang et al., <i>IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning</i>,
 * arXiv:2308.12043.
 *
 * <pre>{@code
 * y = x Wᵀ + b + ((drop(x) Aᵀ) ∘ E) Bᵀ · lora_alpha / (r + 1e-5)
 * loss + orth_reg_weight · mean(‖A Aᵀ - I‖, ‖Bᵀ B - I‖ of all layers)
 * score of a layer = Ī Ū of I = Σ |ΔW ∘ ∂L/∂ΔW| / √(out in)
 * x [.., in]    W [out, in]    A [R, in]    E [R, 1]    B [out, R]    y [.., out]
 * }</pre>
 *
 * <p>Of the R components r are live, the others a reserve that learns ahead at a fixed E of 1e-5. Every {@code interval} steps
 * the reserves of the {@code top_h} best layers go live (their E begins to learn) and get a fresh reserve, until the live ranks
 * are {@code target_r} on average; then, or when training ends, the reserves' E is 0. What comes late has a warm-up of its own.
 * ∂L/∂ΔW is made from the gradient at the layer's output, so that ΔW is not formed in the forward pass, and over all batches of
 * a step. Growth ends when the target is met or passed; the authors' code tests for equality. Checked by hand derivation.
 */
public final class Increlora implements Adapter, LoraExpressible {

    private static final double RESERVE = 1e-5; // E of components that are not live

    /**
     * IncreLoRA's settings.
     *
     * @param initR [init_r] ranks at the start, at least 1
     * @param targetR [target_r] mean of the ranks at the end, at least init_r
     * @param rankStep [rank_step] ranks that a layer gets at a time, at least 1; 0 for half of target_r
     * @param topH [top_h] layers that grow at a time, at least 1; 0 for as many as end growth in the first half of training
     * @param initWarmup [init_warmup] steps before growth, at least 0
     * @param interval steps between growths, at least 1
     * @param beta1 decay of the sensitivity, in (0, 1)
     * @param beta2 decay of its uncertainty, in (0, 1)
     * @param orthRegWeight [orth_reg_weight] weight of the penalty, at least 0
     * @param alpha [lora_alpha] numerator of the scale; the initial rank if it is not positive
     * @param dropout [lora_dropout] in [0, 1)
     * @param advance [advance_learning] whether the reserve learns before it is live
     * @param restartWarmup [restart_warmup] whether what comes late has a schedule of its own, else the full rate to the end
     * @param keepScale [keep_scale] whether the scale stays that of the initial rank
     * @param ranks [rank_pattern] live ranks by path of the layer; others have init_r
     */
    public record Config(
            int initR,
            int targetR,
            int rankStep,
            int topH,
            long initWarmup,
            long interval,
            double beta1,
            double beta2,
            double orthRegWeight,
            double alpha,
            double dropout,
            boolean advance,
            boolean restartWarmup,
            boolean keepScale,
            Map<String, Integer> ranks) {

        /** The authors' scripts for the small tasks. */
        public static final Config DEFAULT =
                new Config(1, 2, 0, 0, 100, 100, 0.85, 0.85, 0.1, 32, 0, true, true, false, Map.of());

        /** Checks ranges. */
        public Config {
            check(initR >= 1, "init_r must be at least 1, found %d; try 1", initR);
            check(
                    targetR >= initR,
                    "target_r must be at least init_r = %d, found %d; try %d",
                    initR,
                    targetR,
                    2 * initR);
            check(
                    rankStep > 0 || (rankStep == 0 && targetR >= 2 && targetR <= 8 && targetR % 2 == 0),
                    "rank_step must be at least 1, found %d; 0 means half of target_r and is for 2, 4, 6 and 8 alone, not %d",
                    rankStep,
                    targetR);
            check(topH >= 0, "top_h must be at least 1, or 0 to have it chosen, found %d", topH);
            check(initWarmup >= 0, "init_warmup must be at least 0, found %d; try 100", initWarmup);
            check(interval >= 1, "interval must be at least 1, found %d; try 100", interval);
            Importance.checkBeta("beta1", beta1);
            Importance.checkBeta("beta2", beta2);
            check(
                    orthRegWeight >= 0 && Double.isFinite(orthRegWeight),
                    "orth_reg_weight must be at least 0 and finite, found %s; try 0.1",
                    orthRegWeight);
            check(Double.isFinite(alpha), "lora_alpha must be finite, found %s; try 32", alpha);
            Lora.Config.DEFAULT.withDropout(dropout);
            ranks = Collections.unmodifiableMap(new LinkedHashMap<>(ranks));
            ranks.forEach((path, rank) ->
                    check(rank >= 1, "rank_pattern: the rank of %s must be at least 1, found %d", path, rank));
        }

        Config withRanks(Map<String, Integer> live) {
            return new Config(
                    initR,
                    targetR,
                    rankStep,
                    topH,
                    initWarmup,
                    interval,
                    beta1,
                    beta2,
                    orthRegWeight,
                    alpha,
                    dropout,
                    advance,
                    restartWarmup,
                    keepScale,
                    live);
        }

        /** Ranks that a layer gets at a time. */
        int step() {
            return rankStep == 0 ? targetR / 2 : rankStep;
        }
    }

    /** How IncreLoRA is set up, read and written. */
    public static final class Type implements AdapterType<Config> {

        @Override
        public About about() {
            return new About(
                    "increlora",
                    "adapter",
                    "a LoRA of rank 1 that gets more ranks during training where they matter most",
                    "Zhang et al., IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient Fine-tuning,"
                            + " arXiv:2308.12043",
                    """
                    y = x Wᵀ + b + ((drop(x) Aᵀ) ∘ E) Bᵀ · lora_alpha / (r + 1e-5)
                    A [r, in], E [r, 1], B [out, r] trained: r (in + out + 1) parameters a layer, r = init_r at first""",
                    "optimizers that take on parameters during training, such as adamw; not with patience; linear layers only",
                    "A, E and B of the live ranks of each layer, of our own type (INCRELORA); export --to lora is exact",
                    true);
        }

        @Override
        public Map<String, String> meanings() {
            return Map.ofEntries(
                    Map.entry("init_r", "ranks of each layer at the start, at least 1"),
                    Map.entry("target_r", "mean of the layers' ranks at the end, at least init_r"),
                    Map.entry("rank_step", "ranks that a layer gets at a time, at least 1; 0 for half of target_r"),
                    Map.entry(
                            "top_h",
                            "layers that grow at a time, at least 1; 0: growth ends in the first half of training"),
                    Map.entry("init_warmup", "steps before growth, at least 0"),
                    Map.entry("interval", "steps between growths, at least 1"),
                    Map.entry("beta1", "decay of the mean sensitivity, in (0, 1)"),
                    Map.entry("beta2", "decay of its uncertainty, in (0, 1)"),
                    Map.entry("orth_reg_weight", "weight of the penalty on dependent components, at least 0"),
                    Map.entry("lora_alpha", "numerator of the scale; the initial rank where it is not above 0"),
                    Map.entry("lora_dropout", "share of the input dropped in training, in [0, 1)"),
                    Map.entry("advance_learning", "let components learn before they are live"),
                    Map.entry(
                            "restart_warmup",
                            "a schedule of its own for what comes late, else the full rate to the end"),
                    Map.entry("keep_scale", "keep the initial rank in the scale when ranks grow"),
                    Map.entry("rank_pattern", "live ranks by path of the layer; written by training"));
        }

        @Override
        public String peftType() {
            return "INCRELORA";
        }

        @Override
        public Config read(Fields f) {
            Config usual = Config.DEFAULT;
            return new Config(
                    f.integer("init_r", usual.initR()),
                    f.integer("target_r", usual.targetR()),
                    f.integer("rank_step", usual.rankStep()),
                    f.integer("top_h", usual.topH()),
                    f.longInteger("init_warmup", usual.initWarmup()),
                    f.longInteger("interval", usual.interval()),
                    f.number("beta1", usual.beta1()),
                    f.number("beta2", usual.beta2()),
                    f.number("orth_reg_weight", usual.orthRegWeight()),
                    f.number("lora_alpha", usual.alpha()),
                    f.number("lora_dropout", usual.dropout()),
                    f.bool("advance_learning", usual.advance()),
                    f.bool("restart_warmup", usual.restartWarmup()),
                    f.bool("keep_scale", usual.keepScale()),
                    f.integerMap("rank_pattern", usual.ranks()));
        }

        @Override
        public Map<String, @Nullable Object> write(Config config) {
            Map<String, @Nullable Object> json = new LinkedHashMap<>();
            json.put("init_r", config.initR());
            json.put("target_r", config.targetR());
            json.put("rank_step", config.rankStep());
            json.put("top_h", config.topH());
            json.put("init_warmup", config.initWarmup());
            json.put("interval", config.interval());
            json.put("beta1", config.beta1());
            json.put("beta2", config.beta2());
            json.put("orth_reg_weight", config.orthRegWeight());
            json.put("lora_alpha", config.alpha());
            json.put("lora_dropout", config.dropout());
            json.put("advance_learning", config.advance());
            json.put("restart_warmup", config.restartWarmup());
            json.put("keep_scale", config.keepScale());
            json.put("rank_pattern", config.ranks());
            json.put("bias", "none");
            return json;
        }

        @Override
        public void check(Config config, List<Site> sites) {
            Lora.Config.of(config.initR(), 1).fit(sites);
        }

        @Override
        public Made create(Config config, List<Site> sites, Seed seed) {
            return Made.each(sites, site -> new Increlora(config, site, seed));
        }

        @Override
        public Parts parts(Config config, Attached adapter, Seed seed) {
            Map<String, Increlora> layers = layers(adapter.made());
            LossTerm apart = (step, outcome) -> {
                List<Tensor> rows = new ArrayList<>();
                layers.values().forEach(each -> {
                    rows.add(each.a(each.blocks));
                    rows.add(each.b(each.blocks).t());
                });
                return Orthogonality.penalty(rows).mul(config.orthRegWeight());
            };
            return new Parts(
                    List.of(new Growth(config, layers)),
                    config.orthRegWeight() == 0 ? List.of() : List.of(apart),
                    Map.of());
        }

        /** The live components. */
        @Override
        public Saved<Config> saved(Config config, Made made) {
            Map<String, Integer> ranks = new LinkedHashMap<>();
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            layers(made).forEach((path, each) -> {
                if (each.rank() != config.initR()) {
                    ranks.put(path, each.rank());
                }
                tensors.put(Made.key(path, "lora_A"), each.a(each.live()));
                tensors.put(Made.key(path, "lora_B"), each.b(each.live()));
                tensors.put(Made.key(path, "lora_E"), each.e(each.live()));
            });
            return new Saved<>(config.withRanks(ranks), tensors);
        }

        private static Map<String, Increlora> layers(Made made) {
            Map<String, Increlora> layers = new LinkedHashMap<>();
            made.adapters().forEach((path, adapter) -> layers.put(path, (Increlora) adapter));
            return layers;
        }
    }

    /** Gives ranks out, and remembers when and to whom, so that a resumed run can do it again. */
    private static final class Growth implements Callback {
        private final Config config;
        private final List<String> paths;
        private final List<Increlora> layers;
        private final Importance importance;
        private final List<long[]> events = new ArrayList<>(); // step t and layer; -1 for the first reserves of all
        private final long initial; // ranks
        private long now; // the step t, from 0
        private int topH;

        Growth(Config config, Map<String, Increlora> layers) {
            this.config = config;
            this.paths = List.copyOf(layers.keySet());
            this.layers = List.copyOf(layers.values());
            this.importance = new Importance(config.beta1(), config.beta2());
            this.initial = total();
        }

        private long total() {
            return layers.stream().mapToLong(Increlora::rank).sum();
        }

        private long target() {
            return (long) config.targetR() * layers.size();
        }

        @Override
        public void beforeTraining(TrainingRun run, long stepsDone) {
            check(
                    run.config().patience() == 0,
                    "increlora grows, and the best state may be one of fewer ranks that cannot be put back; set patience to 0, found %d",
                    run.config().patience());
            layers.forEach(each -> each.recording = total() < target());
            if (total() >= target()) {
                return;
            }
            long step = config.step();
            long missing = target() - initial;
            long first = (config.initWarmup() / config.interval() + 1) * config.interval(); // step of the first growth
            long rounds = Math.max(1, (run.totalSteps() / 2 - first) / config.interval() + 1);
            topH = config.topH() > 0 ? config.topH() : (int) Math.ceil((double) missing / (step * rounds));
            long needed = (missing + topH * step - 1) / (topH * step);
            long last = first + (needed - 1) * config.interval();
            check(
                    last < run.totalSteps(),
                    "the last ranks would come at step %d, after the end of the training of %d steps; lower init_warmup %d and interval"
                            + " %d, or raise top_h",
                    last,
                    run.totalSteps(),
                    config.initWarmup(),
                    config.interval());
        }

        @Override
        public void beforeStep(TrainingRun run, long step) {
            now = step - 1;
        }

        @Override
        public void afterBackward(StepContext step) {
            if (total() < target()) {
                for (int m = 0; m < layers.size(); m++) {
                    importance.observe(paths.get(m), layers.get(m).sensitivity());
                }
                if (now > config.initWarmup() && now % config.interval() == 0) {
                    grow(step.run());
                }
            }
            if (now == 0) {
                for (Increlora layer : layers) {
                    layer.reserve();
                }
                events.add(new long[] {0, -1});
                join(step.run(), 0, allNumbers(), false);
                finishIfDone();
            }
        }

        private List<Integer> allNumbers() {
            List<Integer> all = new ArrayList<>();
            for (int m = 0; m < layers.size(); m++) {
                all.add(m);
            }
            return all;
        }

        private void grow(TrainingRun run) {
            double[] scores = new double[layers.size()];
            for (int m = 0; m < scores.length; m++) {
                scores[m] = importance.score(paths.get(m)).item();
            }
            double[] sorted = scores.clone();
            java.util.Arrays.sort(sorted);
            int h = (int) Math.min(Math.min(topH, target() - total()), layers.size());
            double threshold = sorted[sorted.length - h];
            List<Integer> chosen = new ArrayList<>();
            for (int m = 0; m < scores.length; m++) {
                if (scores[m] >= threshold) {
                    chosen.add(m);
                }
            }
            release(run, now, chosen);
        }

        private void release(TrainingRun run, long t, List<Integer> chosen) {
            chosen.forEach(m -> {
                layers.get(m).release();
                events.add(new long[] {t, m});
            });
            join(run, t, chosen, true);
            finishIfDone();
        }

        private void finishIfDone() {
            if (total() >= target()) {
                layers.forEach(Increlora::rest);
            }
        }

        /** Trains from the next step on what has come: the fresh reserves, and what has just gone live. */
        private void join(TrainingRun run, long t, List<Integer> chosen, boolean released) {
            Map<String, Parameter> come = new LinkedHashMap<>();
            for (int m : chosen) {
                Increlora layer = layers.get(m);
                int last = layer.blocks.size() - 1;
                if (released) {
                    layer.put(come, paths.get(m), last - 1, !config.advance(), true);
                }
                if (config.advance()) {
                    layer.put(come, paths.get(m), last, true, false);
                }
            }
            if (!come.isEmpty()) {
                double decay = run.config().optimizer().weightDecay();
                run.grow(new ParameterGroup("grown at step " + t, come, clock(run, t), decay));
            }
        }

        /** What the run's rate is multiplied by to give a schedule that begins after step t. */
        private DoubleSupplier clock(TrainingRun run, long t) {
            Schedule schedule = run.config().schedule();
            long whole = run.totalSteps();
            long warmup = schedule.warmupRatio() > 0
                    ? (long) Math.ceil(whole * schedule.warmupRatio())
                    : schedule.warmupSteps();
            Schedule own = new Schedule(schedule.curve(), warmup, 0);
            return () -> {
                double usual = schedule.factor(now, whole);
                double wanted = config.restartWarmup() ? own.factor(Math.max(0, now - t - 1), whole - t - 1) : 1;
                return usual == 0 ? 0 : wanted / usual;
            };
        }

        @Override
        public void afterTraining(TrainingRun run) {
            layers.forEach(Increlora::rest);
        }

        @Override
        public Map<String, Tensor> state() {
            Map<String, Tensor> all = new LinkedHashMap<>(importance.state());
            if (!events.isEmpty()) {
                all.put(
                        "events",
                        Tensor.of(
                                events.stream()
                                        .flatMapToLong(java.util.Arrays::stream)
                                        .toArray(),
                                events.size(),
                                2));
            }
            return all;
        }

        /** Grows again as the run had grown. */
        @Override
        public void load(TrainingRun run, Map<String, Tensor> state) {
            importance.load(state);
            Tensor grown = state.get("events");
            if (grown == null) {
                return;
            }
            long[] rows = grown.longs();
            for (int i = 0; i < rows.length; ) {
                long t = rows[i];
                if (rows[i + 1] < 0) {
                    layers.forEach(Increlora::reserve);
                    events.add(new long[] {t, -1});
                    join(run, t, allNumbers(), false);
                    finishIfDone();
                    i += 2;
                    continue;
                }
                List<Integer> chosen = new ArrayList<>();
                for (; i < rows.length && rows[i] == t; i += 2) {
                    chosen.add((int) rows[i + 1]);
                }
                release(run, t, chosen);
            }
        }
    }

    /** Components that came together: A [k, in], B [out, k], E [k, 1]. */
    private record Block(Parameter a, Parameter b, Parameter e) {}

    private final Config config;
    private final Seed seed;
    private final long in;
    private final long out;
    private final DType dtype;
    private final Device device;
    private final List<Block> blocks = new ArrayList<>(); // the reserve, if there is one, last
    private boolean reserved;
    private boolean recording; // of what the score needs
    private @Nullable Tensor input; // [n, in], of the latest forward pass
    private @Nullable Tensor bump; // zeros [n, out], whose gradient is that of the layer's output
    private @Nullable Tensor gradient; // ∂L/∂ΔW [out, in], of the passes before

    private Increlora(Config config, Site site, Seed seed) {
        check(
                !(site.layer() instanceof Embedding),
                "increlora is for linear layers, and %s is an embedding; take it out of target_modules",
                site.path());
        this.config = config;
        this.seed = seed.named(site.path());
        in = site.layer().inFeatures();
        out = site.layer().outFeatures();
        dtype = site.layer().dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        device = site.layer().weightParameter().tensor().device();
        add(config.ranks().getOrDefault(site.path(), config.initR()), 0, true);
    }

    private void add(int k, double coefficient, boolean trains) {
        String number = blocks.isEmpty() ? "" : "." + blocks.size();
        try (Grad off = Grad.off();
                Scope scope = Scope.open();
                Generator forA = seed.named("lora_A" + number).generator();
                Generator forB = seed.named("lora_B" + number).generator()) {
            Block block = new Block(
                    parameter(forA.normal(0, 0.02, k, in)),
                    parameter(forB.normal(0, 0.02, out, k)),
                    parameter(Tensor.full(coefficient, DType.FLOAT32, k, 1)));
            block.a.trainable(trains);
            block.b.trainable(trains);
            block.e.trainable(trains);
            blocks.add(block);
        }
    }

    private Parameter parameter(Tensor value) {
        return new Parameter(value.to(dtype).to(device));
    }

    /** Adds a reserve. */
    void reserve() {
        add(config.step(), config.advance() ? RESERVE : 0, false);
        reserved = true;
    }

    /** Lets the reserve go live and adds a fresh one. */
    void release() {
        reserve();
    }

    /** No more growth: the reserve is left, and without effect. */
    void rest() {
        recording = false;
        forget();
        if (reserved) {
            Block reserve = blocks.get(blocks.size() - 1);
            reserve.e.tensor().detach().zero_();
            if (config.orthRegWeight() == 0) { // nothing moves it any more
                reserve.a.trainable(false);
                reserve.b.trainable(false);
            }
        }
    }

    private List<Block> live() {
        return reserved ? blocks.subList(0, blocks.size() - 1) : blocks;
    }

    /** Live ranks r. */
    int rank() {
        return live().stream().mapToInt(block -> (int) block.e.tensor().numel()).sum();
    }

    /** lora_alpha / (r + 1e-5). */
    double scale() {
        double alpha = config.alpha() > 0 ? config.alpha() : config.initR();
        return alpha / ((config.keepScale() ? config.initR() : rank()) + 1e-5);
    }

    private Tensor a(List<Block> of) {
        return Tensor.cat(of.stream().map(block -> block.a.tensor()).toList(), 0); // [R, in]
    }

    private Tensor b(List<Block> of) {
        return Tensor.cat(of.stream().map(block -> block.b.tensor()).toList(), 1); // [out, R]
    }

    private Tensor e(List<Block> of) {
        return Tensor.cat(of.stream().map(block -> block.e.tensor()).toList(), 0); // [R, 1]
    }

    @Override
    public Tensor forward(Tensor x, Base base) {
        return Base.onRows(x, rows -> {
            Tensor y = base.forward(rows); // [n, out]
            boolean training = base.layer().isTraining();
            Tensor dropped = config.dropout() > 0 ? rows.dropout(config.dropout(), training) : rows;
            Tensor down =
                    dropped.linear(a(blocks), null).mul(e(blocks).to(y.dtype()).t()); // [n, R]
            y.addmm_(down, b(blocks).to(y.dtype()).t(), scale());
            if (recording && training) {
                gather();
                input = dropped.detach().keep();
                bump = y.detach().zerosLike().requiresGrad_(true).keep();
                y = y.add(bump);
            }
            return y;
        });
    }

    /** Adds the latest pass to ∂L/∂ΔW = Σ (∂L/∂y)ᵀ drop(x). */
    private void gather() {
        Tensor x = input;
        Tensor g = bump == null ? null : bump.grad();
        if (x != null && g != null) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Tensor product = g.to(dtype).t().matmul(x.to(dtype)); // [out, in]
                if (gradient == null) {
                    gradient = product.keep();
                } else {
                    gradient.add_(product);
                }
            }
        }
        forgetPass();
    }

    private void forgetPass() {
        if (input != null) {
            input.close();
            input = null;
        }
        if (bump != null) {
            bump.close();
            bump = null;
        }
    }

    private void forget() {
        forgetPass();
        if (gradient != null) {
            gradient.close();
            gradient = null;
        }
    }

    /** I = Σ |ΔW ∘ ∂L/∂ΔW| / √(out in), float64, of the passes since it was last asked. */
    Tensor sensitivity() {
        gather();
        Tensor sum = Tensor.scalar(0, DType.FLOAT64);
        if (gradient != null) {
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Tensor change = change(blocks).product();
                sum = scope.promote(
                        change.mul(gradient).abs().sum().to(DType.FLOAT64).div(Math.sqrt((double) out * in)));
            }
        }
        forget();
        return sum;
    }

    private LoraFactors change(List<Block> of) {
        return new LoraFactors(a(of), b(of).mul(e(of).t()), scale(), null);
    }

    @Override
    public LoraFactors toLora() {
        return change(live());
    }

    private void put(Map<String, Parameter> into, String path, int i, boolean factors, boolean coefficient) {
        String number = i == 0 ? "" : "." + i;
        Block block = blocks.get(i);
        if (factors) {
            into.put(AdapterType.Made.key(path, "lora_A" + number), block.a);
            into.put(AdapterType.Made.key(path, "lora_B" + number), block.b);
        }
        if (coefficient) {
            into.put(AdapterType.Made.key(path, "lora_E" + number), block.e);
        }
    }

    @Override
    public Map<String, Parameter> parameters() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        for (int i = 0; i < blocks.size(); i++) {
            String number = i == 0 ? "" : "." + i;
            named.put("lora_A" + number, blocks.get(i).a);
            named.put("lora_B" + number, blocks.get(i).b);
            named.put("lora_E" + number, blocks.get(i).e);
        }
        return named;
    }

    @Override
    public void close() {
        forget();
        parameters().values().forEach(p -> p.tensor().close());
    }
}
