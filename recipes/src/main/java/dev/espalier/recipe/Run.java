package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.AdapterType;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Calibration;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Initializer;
import dev.espalier.adapter.Method;
import dev.espalier.adapter.PeftFolder;
import dev.espalier.adapter.Plan;
import dev.espalier.adapter.Setting;
import dev.espalier.data.Batch;
import dev.espalier.data.Collator;
import dev.espalier.data.Dataset;
import dev.espalier.data.Encoder;
import dev.espalier.data.Encoding;
import dev.espalier.data.Encodings;
import dev.espalier.data.Example;
import dev.espalier.data.Labels;
import dev.espalier.data.Splits;
import dev.espalier.io.Fields;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.task.CausalLmTask;
import dev.espalier.task.ClassificationTask;
import dev.espalier.task.Evaluation;
import dev.espalier.task.RegressionTask;
import dev.espalier.task.Task;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import dev.espalier.text.ChatTemplate;
import dev.espalier.train.Callback;
import dev.espalier.train.LogProgress;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import dev.espalier.train.ProgressListener;
import dev.espalier.train.TrainConfig;
import dev.espalier.train.TrainResult;
import dev.espalier.train.Trainer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * A recipe being carried out: data read, model loaded, adapter attached, then trained, judged and saved.
 *
 * <pre>{@code
 * try (Run run = Run.prepare(recipe)) {
 *     Run.Result result = run.train();
 * }
 * }</pre>
 *
 * <p>Nothing is written before {@link #train}.
 */
public final class Run implements AutoCloseable {

    /**
     * What came out.
     *
     * @param training how it ended
     * @param metrics of the test split, else of the held-out examples; empty where there are neither
     * @param adapter the folder that holds the adapter, or null where training was interrupted
     */
    public record Result(
            TrainResult training,
            Map<String, Double> metrics,
            @Nullable Path adapter) {

        /** Copies. */
        public Result {
            metrics = java.util.Collections.unmodifiableMap(new LinkedHashMap<>(metrics));
        }
    }

    private final Recipe recipe;
    private final Splits splits;
    private final @Nullable Labels labels;
    private final Pretrained pretrained;
    private final AdaptedModel adapted;
    private final @Nullable String template; // Jinja that takes the place of the model's own
    private final Encoder encoder;
    private final int maxLength;
    private final Encodings train;
    private final @Nullable Encodings validation;
    private final @Nullable Encodings test;
    private final @Nullable Dataset forgotten; // what is to be forgotten; then the rest is to be retained
    private final @Nullable Encodings forget;
    private final Task task;
    private volatile @Nullable Trainer trainer;
    private volatile boolean stop;
    private @Nullable Plan plan; // some methods take long to make one
    private @Nullable Boolean recomputes; // what was said is what is done, however memory changes meanwhile

    private Run(Recipe recipe, Splits splits, @Nullable Labels labels, Pretrained pretrained) {
        this.recipe = recipe;
        this.splits = splits;
        this.labels = labels;
        this.pretrained = pretrained;
        TaskSpec spec = recipe.task();
        maxLength = LoadedModel.maxLength(pretrained, spec.maxLength());
        template = templateText(spec.template());
        encoder = new Encoder(
                pretrained.tokenizer(),
                template != null
                        ? ChatTemplate.of(template, pretrained.tokenizer().special())
                        : spec.type() == TaskSpec.Type.CAUSAL_LM
                                ? pretrained.chatTemplate().orElse(null)
                                : null,
                labels,
                new Encoder.Options(maxLength, spec.truncate(), spec.supervise(), spec.templateVariables()));
        train = encoder.encode(splits.train());
        validation = encode(splits.validation());
        test = encode(splits.test());
        forgotten = spec.forget() == null ? null : spec.read(spec.forget());
        forget = encode(forgotten);
        adapted = new AdaptedModel(pretrained.model(), pretrained.model().heads());
        task = task(spec);
    }

    private @Nullable Encodings encode(@Nullable Dataset data) {
        return data == null ? null : encoder.encode(data);
    }

    /** Reads data, loads the model from this machine or a hub, and attaches the adapter. */
    public static Run prepare(Recipe recipe) {
        return prepare(recipe, LoadOptions.defaults());
    }

    /**
     * Prepares a run.
     *
     * @param options hub and listener to downloads; precision, device and seed are the recipe's
     * @throws EspalierException if anything of the recipe, the data or the model does not fit
     */
    public static Run prepare(Recipe recipe, LoadOptions options) {
        return prepare(recipe, options, Recipe.TRAIN);
    }

    /** Prepares what a command works on. */
    static Run prepare(Recipe recipe, LoadOptions options, String verb) {
        Run run = bare(recipe, options, verb);
        try {
            run.attach(new Seed(recipe.train().config().seed()));
            return run;
        } catch (RuntimeException e) {
            run.close();
            throw e;
        }
    }

    /** The same without an adapter. */
    static Run bare(Recipe recipe, LoadOptions options, String verb) {
        check(
                recipe.verb().equals(verb),
                "the recipe has a section %s; carry it out by espalier %s",
                recipe.verb(),
                recipe.verb());
        if (recipe.adapter().spec() != null) { // else what is combined stands in files of the adapter it goes on from
            Catalog.checkCombination(methods(recipe, recipe.requireSpec()));
        }
        Seed seed = new Seed(recipe.train().config().seed());
        Splits splits = recipe.task().split(seed);
        Receipt before = recipe.adapter().from() == null
                ? null
                : Receipt.find(recipe.adapter().from());
        Labels labels = recipe.task().type() != TaskSpec.Type.CLASSIFICATION
                ? null
                : before != null
                        ? new Labels(before.labels())
                        : Labels.of(splits.train().examples());
        LoadOptions own = new LoadOptions(
                recipe.train().precision(),
                Device.parse(recipe.train().device()),
                seed,
                options.hub(),
                options.progress());
        Pretrained pretrained =
                Models.load(recipe.model(), purpose(recipe.task().type(), labels), own);
        try {
            if (before != null) {
                check(
                        before.baseSha256().equals(pretrained.origin().sha256()),
                        "adapter.from: %s stands on %s, whose weights are not those of %s; set model to the base it was trained on",
                        recipe.adapter().from(),
                        before.base(),
                        recipe.model());
            }
            return new Run(recipe, splits, labels, pretrained);
        } catch (RuntimeException e) {
            pretrained.close();
            throw e;
        }
    }

    static Purpose purpose(TaskSpec.Type type, @Nullable Labels labels) {
        return switch (type) {
            case CLASSIFICATION ->
                Purpose.classification(java.util.Objects.requireNonNull(labels).names());
            case REGRESSION -> Purpose.regression();
            case CAUSAL_LM -> Purpose.causalLm();
        };
    }

    private void attach(Seed seed) {
        Path from = recipe.adapter().from();
        if (from != null) {
            Attached loaded = PeftFolder.load(adapted, from, "default", true);
            Catalog.checkCombination(methods(recipe, loaded.spec()));
        } else {
            adapted.attach("default", spec(), seed.named("adapter"), calibration());
        }
    }

    /** Everything of the catalogue that takes part. */
    private static List<Method> methods(Recipe recipe, AdapterSpec<?> spec) {
        List<Method> all = new ArrayList<>(recipe.train().methods());
        all.add(spec.type());
        Initializer initializer = spec.initializer();
        if (initializer != null) {
            all.add(initializer);
        }
        return all;
    }

    /** The training data, for methods that look at the network before it trains. */
    private Calibration calibration() {
        Calibration data = calibration(collator(train.items(), true), Calibration.NONE);
        return forget == null ? data : calibration(collator(forget.items(), true), data);
    }

    /** The training data one example at a time, without padding. */
    Calibration singly() {
        Collator.Options options = new Collator.Options(
                1, PadId.of(pretrained), Collator.Side.RIGHT, recipe.task().shuffle(), 0);
        Seed seed = new Seed(recipe.train().config().seed());
        return calibration(new Collator(train.items(), options, seed), Calibration.NONE);
    }

    private Calibration calibration(Collator batches, Calibration retained) {
        return new Calibration() {
            @Override
            public long batches() {
                return batches.batches(0);
            }

            @Override
            public Tensor loss(long batch) {
                Batch data = at(batch);
                double units = task.units(data);
                Tensor sum = task.forward(data).loss();
                return units == 0 ? sum : sum.div(units); // nothing to learn in it: 0
            }

            @Override
            public double units(long batch) {
                try (Scope scope = Scope.open()) {
                    return task.units(at(batch));
                }
            }

            @Override
            public Calibration retained() {
                return retained;
            }

            private Batch at(long batch) {
                return batches.batch(new Collator.Cursor(0, (int) (batch % batches())));
            }
        };
    }

    /** The recipe's specification; a classifier's head, and what was drawn with it, trains and is kept too. */
    private AdapterSpec<?> spec() {
        return spec(recipe);
    }

    private AdapterSpec<?> spec(Recipe any) {
        AdapterSpec<?> given = any.requireSpec();
        Set<String> kept = new LinkedHashSet<>(given.modulesToSave());
        kept.addAll(heads());
        return given.withModulesToSave(List.copyOf(kept));
    }

    /** What an adapter trains beside itself: a classifier's head, and what was drawn with it; nothing of a language model. */
    List<String> heads() {
        List<String> kept = new ArrayList<>();
        if (recipe.task().type() != TaskSpec.Type.CAUSAL_LM) {
            pretrained.model().heads().forEach(head -> kept.add(head.path()));
            kept.addAll(pretrained.drawnLayers());
        }
        return kept;
    }

    private Task task(TaskSpec spec) {
        return switch (spec.type()) {
            case CLASSIFICATION ->
                new ClassificationTask(
                        pretrained.classifier(), new ClassificationTask.Options(classWeights(), spec.labelSmoothing()));
            case REGRESSION -> new RegressionTask(pretrained.classifier());
            case CAUSAL_LM -> new CausalLmTask(pretrained.causalLm(), spec.labelSmoothing());
        };
    }

    /** In the order of the classes; empty where all count alike. */
    private List<Double> classWeights() {
        TaskSpec spec = recipe.task();
        Labels known = java.util.Objects.requireNonNull(labels);
        spec.classWeights()
                .keySet()
                .forEach(name -> check(
                        known.names().contains(name),
                        "task.classWeights names the class \"%s\", which does not occur in the training data; it has %s",
                        name,
                        known));
        if (!spec.balanced() && spec.classWeights().isEmpty()) {
            return List.of();
        }
        long[] counts = new long[known.size()];
        splits.train().examples().forEach(e -> counts[known.id((Example.Labelled) e)]++);
        double total = splits.train().examples().size();
        List<Double> weights = new ArrayList<>();
        for (int c = 0; c < counts.length; c++) {
            weights.add(
                    spec.balanced()
                            ? total / (known.size() * (double) Math.max(1, counts[c]))
                            : spec.classWeights().getOrDefault(known.name(c), 1.0));
        }
        return weights;
    }

    private static @Nullable String templateText(@Nullable String given) {
        if (given == null) {
            return null;
        }
        if (given.contains("{{") || given.contains("{%")) {
            return given;
        }
        Path file = Path.of(given);
        check(
                Files.isRegularFile(file),
                "task.template: %s is neither a file nor a Jinja template; name a .jinja file or write the template itself",
                given);
        try {
            return Files.readString(file);
        } catch (IOException e) {
            throw new EspalierException("task.template: %s cannot be read: %s".formatted(file, e.getMessage()), e);
        }
    }

    /** The recipe. */
    public Recipe recipe() {
        return recipe;
    }

    /** The model that learns. */
    public Pretrained pretrained() {
        return pretrained;
    }

    /** The host of the adapter. */
    public AdaptedModel adapted() {
        return adapted;
    }

    /** The data, as they were read and split. */
    public Splits splits() {
        return splits;
    }

    /** Training data as the model reads them. */
    public Encodings encodings() {
        return train;
    }

    /** Names of the classes, or null where there are none. */
    public @Nullable Labels labels() {
        return labels;
    }

    /** An example as the model reads it, with what it learns to write between "[[" and "]]". */
    public String preview() {
        return encoder.preview(train.items().get(0));
    }

    /** What is trained, layer by layer. */
    public Plan plan() {
        Plan known = plan;
        if (known == null) {
            known = adapted.plan(
                    recipe.adapter().from() == null
                            ? spec()
                            : adapted.adapter("default").spec());
            plan = known;
        }
        return known;
    }

    /** What another recipe's adapter would train here: on this model, with this task's head. */
    public Plan plan(Recipe other) {
        return adapted.plan(spec(other));
    }

    /** Tokens of an optimiser step in the mean, padding not counted. */
    public double tokensPerStep() {
        return (double) recipe.train().config().accumulation()
                * train.tokens()
                / collator().batches(0);
    }

    /**
     * Whether training computes layers again in the backward pass: as the recipe says, or by the memory that is left when it is
     * first asked.
     */
    public boolean recomputes() {
        Boolean known = recomputes;
        if (known == null) {
            known = switch (recipe.train().recompute()) {
                case ALWAYS -> true;
                case NEVER -> false;
                case AUTO -> !Forecast.fits(this);
            };
            recomputes = known;
        }
        return known;
    }

    /** Forecast of the memory that training needs. */
    public Forecast forecast() {
        return Forecast.of(this);
    }

    /** What is learnt. */
    Task task() {
        return task;
    }

    /** Checksums of training data and base. */
    Map<String, String> hashes() {
        Map<String, String> hashes = new LinkedHashMap<>();
        hashes.put("data", splits.train().sha256());
        hashes.put("base", pretrained.origin().sha256());
        if (forgotten != null) {
            hashes.put("forgotten data", forgotten.sha256());
        }
        return hashes;
    }

    /** What is to be forgotten, or null. */
    @Nullable
    Encodings forget() {
        return forget;
    }

    /** Training data in batches: what a step works on. */
    Collator collator() {
        return collator(forget == null ? train.items() : forget.items(), true);
    }

    /** How the model as it stands does on examples. */
    Map<String, Double> measure(Encodings encodings) {
        return Evaluation.run(task, collator(encodings.items(), false)).metrics();
    }

    private Collator collator(List<Encoding> encodings, boolean training) {
        TaskSpec spec = recipe.task();
        return new Collator(
                encodings,
                new Collator.Options(
                        recipe.train().config().batchSize(),
                        PadId.of(pretrained),
                        Collator.Side.RIGHT,
                        training && spec.shuffle(),
                        training && spec.pack() ? maxLength : 0),
                new Seed(recipe.train().config().seed()));
    }

    /** Metrics of the model as it stands on the test split, else on the held-out examples; empty where there are neither. */
    public Map<String, Double> evaluate() {
        Encodings judged = test != null ? test : validation;
        return judged == null
                ? Map.of()
                : Evaluation.run(task, collator(judged.items(), false)).metrics();
    }

    /**
     * Whether the model as it stands writes exactly the answers of held-out examples: {@link ExactMatch}. Empty where nothing is
     * held out.
     *
     * @param maxNewTokens tokens of an answer at most, at least 1
     */
    public List<Boolean> exactMatch(int maxNewTokens) {
        Dataset judged = splits.test() != null ? splits.test() : splits.validation();
        ChatTemplate chat = template != null
                ? ChatTemplate.of(template, pretrained.tokenizer().special())
                : pretrained.chatTemplate().orElse(null);
        return judged == null ? List.of() : ExactMatch.of(pretrained, chat, judged.examples(), maxNewTokens);
    }

    /**
     * Accuracy of the frozen model without training ({@link NearestCentroid}) on what {@link #evaluate} judges by.
     *
     * @throws EspalierException if the task is no classification or nothing is held out
     */
    public double baseline() {
        Encodings judged = test != null ? test : validation;
        if (labels == null || judged == null) {
            throw new EspalierException("a baseline needs classes and held-out examples; set task.heldOut");
        }
        List<String> active = adapted.active();
        adapted.disable();
        try {
            return NearestCentroid.of(pretrained, train.items(), labels.size()).accuracy(pretrained, judged.items());
        } finally {
            adapted.activate(active.toArray(String[]::new));
        }
    }

    /** Trains and saves, with progress in the log. */
    public Result train() {
        return train(false, new LogProgress(recipe.train().config().logEvery()));
    }

    /**
     * Trains, judges and saves the adapter with its receipt into the recipe's {@code out}.
     *
     * @param resume whether to go on from the newest checkpoint in {@code out}
     * @throws EspalierException if {@code out} holds something already and the run is not resumed, or training fails
     */
    public Result train(boolean resume, ProgressListener progress) {
        return train(resume, progress, setting -> task);
    }

    /** Trains for a task that is made of the training; one that is a callback too takes part as such. */
    Result train(boolean resume, ProgressListener progress, Function<Setting, Task> made) {
        Path out = recipe.requireOut();
        checkFree(out, resume);
        Setting setting = setting();
        TrainConfig config = config(setting);
        pretrained.model().backbone().gradientCheckpointing(recomputes());
        Task learnt = made.apply(setting);
        Trainer.Builder builder = Trainer.builder(learnt, collator())
                .config(config)
                .progress(progress)
                .out(out)
                .resume(resume)
                .recipe(recipe.settings())
                .hashes(hashes());
        if (validation != null) {
            builder.validation(collator(validation.items(), false));
        }
        if (learnt instanceof Callback callback) {
            builder.callback(callback);
        }
        AdapterType.Parts parts = setting.adapter().parts(setting.seed());
        builder.groups(groups(config, parts));
        parts.callbacks().forEach(builder::callback);
        parts.lossTerms().forEach(builder::lossTerm);
        recipe.train().losses().forEach(loss -> builder.lossTerm(loss.create(setting)));
        if (recipe.train().sampler() != null) {
            builder.callback(recipe.train().sampler().create(setting));
        }
        try (Trainer built = builder.build()) {
            trainer = built;
            if (stop) {
                built.requestStop();
            }
            TrainResult training = built.train();
            if (training.status() == TrainResult.Status.INTERRUPTED) {
                return new Result(training, training.metrics(), null);
            }
            Map<String, Double> metrics = evaluate();
            save(out);
            return new Result(training, metrics, out);
        } finally {
            trainer = null;
        }
    }

    /** The training as methods see it. */
    Setting setting() {
        TrainConfig config = recipe.train().config();
        return new Setting(adapted, adapted.adapter("default"), task, config, new Seed(config.seed()), singly());
    }

    private TrainConfig config(Setting setting) {
        return setting.config().withOptimizer(recipe.train().optimizer().create(setting));
    }

    /** Bytes that the optimisers declare to hold. */
    long optimizerBytes() {
        Setting setting = setting();
        TrainConfig config = config(setting);
        return Optimizer.stateBytes(
                config.optimizer(), groups(config, setting.adapter().parts(setting.seed())));
    }

    /** What trains: by the method of rates if there is one, with what a method moves by itself taken out. */
    private List<ParameterGroup> groups(TrainConfig config, AdapterType.Parts parts) {
        List<ParameterGroup> given;
        TrainPart.Groups rates = recipe.train().groups();
        if (rates == null) {
            given = List.of(new ParameterGroup(
                    "all", adapted.trainableParameters(), 1, config.optimizer().weightDecay()));
        } else {
            Fields fields = rates.fields();
            given = rates.method().groups(adapted, fields, config.learningRate());
            fields.done();
        }
        return parts.groups(given);
    }

    /** Asks a training to save a checkpoint and end; from any thread. */
    public void requestStop() {
        stop = true;
        Trainer running = trainer;
        if (running != null) {
            running.requestStop();
        }
    }

    /**
     * Stops unless a folder can take results.
     *
     * @param resume whether it may hold a run to go on with
     */
    public static void checkFree(Path out, boolean resume) {
        if (resume) {
            check(Files.isDirectory(out), "there is no run to resume in %s; check --out, or leave --resume out", out);
            return;
        }
        if (!Files.exists(out)) {
            return;
        }
        check(Files.isDirectory(out), "%s is a file; choose a folder for results", out);
        try (Stream<Path> entries = Files.list(out)) {
            check(
                    entries.findAny().isEmpty(),
                    "%s is not empty; choose another folder, remove it, or go on with the run in it by --resume",
                    out);
        } catch (IOException e) {
            throw new EspalierException("%s cannot be read: %s".formatted(out, e.getMessage()), e);
        }
    }

    /** Writes the adapter with its receipt. */
    void save(Path out) {
        save(adapted, out, receipt(baseName(), pretrained.origin().sha256()));
    }

    /** What goes with an adapter on some base. */
    Receipt receipt(String base, String baseSha256) {
        return new Receipt(
                base,
                baseSha256,
                recipe.task().type(),
                labels == null ? List.of() : labels.names(),
                maxLength,
                recipe.task().truncate(),
                template,
                splits.train().sha256(),
                recipe.settings());
    }

    static void save(AdaptedModel adapted, Path out, Receipt receipt) {
        PeftFolder.save(adapted, "default", out, receipt.info(), PeftFolder.Form.PLAIN, receipt.fields());
    }

    /** A local path is kept absolute, so that the adapter finds its base from any folder. */
    String baseName() {
        Path local = Path.of(recipe.model());
        return Files.exists(local) ? local.toAbsolutePath().normalize().toString() : recipe.model();
    }

    @Override
    public void close() {
        adapted.close();
        pretrained.close();
    }
}
