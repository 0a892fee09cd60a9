package dev.espalier.model;

import dev.espalier.EspalierException;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Brings a checkpoint's tensors into a model, strictly by name: every parameter finds its tensor and every tensor its
 * parameter, or nothing is loaded and all that does not fit is told at once.
 *
 * <p>Differences that are no fault, and all there are:
 *
 * <ul>
 *   <li>the prefix before the backbone's keys, which checkpoints without a head lack;
 *   <li>{@code gamma} and {@code beta} for weight and bias of a LayerNorm, in the oldest BERT files;
 *   <li>buffers that older versions saved and the code computes;
 *   <li>a pooler and heads of other tasks than the model's;
 *   <li>a tied {@code lm_head.weight}, present or not;
 *   <li>layers of a task's own head that are missing: they are drawn anew.
 * </ul>
 */
final class Weights {

    private static final Pattern COMPUTED = Pattern.compile(
            "(.*\\.)?(rotary_emb\\.inv_freq|embeddings\\.(position_ids|token_type_ids)|h\\.\\d+\\.attn\\.(bias|masked_bias))");
    private static final Pattern OTHER_TASKS = Pattern.compile(
            "((bert\\.|roberta\\.)?pooler|lm_head|score|classifier|cls|qa_outputs|multiple_choice_head)\\..*");
    private static final int NAMED_AT_MOST = 5;

    private final Model model;
    private final TensorSource source;
    private final Map<String, String> keys = new LinkedHashMap<>(); // parameter's path -> key in the source

    private Weights(Model model, TensorSource source) {
        this.model = model;
        this.source = source;
        String prefix = model.config().family().keyPrefix() + ".";
        boolean headless = source.tensors().keySet().stream().noneMatch(key -> key.startsWith(prefix));
        for (String key : source.tensors().keySet()) {
            String other = keys.put(path(key, prefix, headless), key);
            if (other != null) {
                throw new EspalierException("%s holds one tensor under two names: %s and %s; remove one"
                        .formatted(source.where(), other, key));
            }
        }
    }

    /**
     * Loads.
     *
     * @param newHead whether the checkpoint's own head is for other classes and must not be used
     * @param seed from which layers are drawn that the checkpoint lacks
     * @return paths of those layers
     */
    static Set<String> load(Model model, TensorSource source, DType dtype, Device device, boolean newHead, Seed seed) {
        Weights weights = new Weights(model, source);
        Map<String, Linear> drawn = weights.toDraw(newHead);
        weights.check(drawn.keySet());
        weights.fill(dtype, device);
        drawn.forEach((path, layer) -> draw(path, layer, model.config().initializerRange(), device, seed));
        return drawn.keySet();
    }

    private String path(String key, String prefix, boolean headless) {
        String path =
                key.replace(".LayerNorm.gamma", ".LayerNorm.weight").replace(".LayerNorm.beta", ".LayerNorm.bias");
        boolean wantsPrefix = !(model instanceof SentenceEmbedder);
        if (headless && wantsPrefix && !(OTHER_TASKS.matcher(path).matches() && !path.startsWith("pooler."))) {
            return prefix + path;
        } else if (!headless && !wantsPrefix && path.startsWith(prefix)) {
            return path.substring(prefix.length());
        }
        return path;
    }

    /** The layers of the task's head that get new values. */
    private Map<String, Linear> toDraw(boolean newHead) {
        Map<String, Linear> drawn = new LinkedHashMap<>();
        for (Linear layer : model.taskLayers()) {
            String path = layer.path();
            if (newHead && model.heads().contains(layer)) {
                keys.remove(path + ".weight");
                keys.remove(path + ".bias");
                drawn.put(path, layer);
            } else if (!keys.containsKey(path + ".weight") && !keys.containsKey(path + ".bias")) {
                drawn.put(path, layer);
            }
        }
        return drawn;
    }

    private void check(Set<String> drawn) {
        Map<String, Parameter> parameters = model.namedParameters();
        if (model.config().tieWordEmbeddings()) {
            parameters.remove("lm_head.weight");
            keys.remove("lm_head.weight");
        }
        List<String> missing = new ArrayList<>();
        List<String> misshapen = new ArrayList<>();
        parameters.forEach((path, parameter) -> {
            String key = keys.get(path);
            if (key == null) {
                if (!drawn.contains(path.substring(0, path.lastIndexOf('.')))) {
                    missing.add(path);
                }
                return;
            }
            long[] found = source.info(key).dims();
            if (!Arrays.equals(found, parameter.shape())) {
                misshapen.add("%s %s instead of %s"
                        .formatted(path, Arrays.toString(found), Arrays.toString(parameter.shape())));
            }
        });
        keys.keySet()
                .removeIf(path -> !parameters.containsKey(path)
                        && (COMPUTED.matcher(path).matches()
                                || OTHER_TASKS.matcher(path).matches()));
        Set<String> left = new HashSet<>(keys.keySet());
        left.removeAll(parameters.keySet());
        List<String> leftOver = left.stream().map(keys::get).sorted().toList();
        List<String> faults = new ArrayList<>();
        tell(faults, missing, "missing");
        tell(faults, leftOver, "left over");
        tell(faults, misshapen, "of another shape");
        if (!faults.isEmpty()) {
            throw new EspalierException("%s does not fit %s: %s; check that weights and config.json belong together"
                    .formatted(source.where(), model.architecture(), String.join("; ", faults)));
        }
    }

    private static void tell(List<String> faults, List<String> names, String what) {
        if (!names.isEmpty()) {
            faults.add("%d %s %s (%s%s)"
                    .formatted(
                            names.size(),
                            names.size() == 1 ? "tensor is" : "tensors are",
                            what,
                            names.stream().limit(NAMED_AT_MOST).collect(Collectors.joining(", ")),
                            names.size() > NAMED_AT_MOST ? ", ..." : ""));
        }
    }

    private void fill(DType dtype, Device device) {
        Map<String, Parameter> parameters = model.namedParameters();
        keys.forEach((path, key) -> {
            try (Scope scope = Scope.open()) {
                // Mapped, so that a weight that needs no conversion costs no memory beyond the file's pages.
                Objects.requireNonNull(parameters.get(path))
                        .set(source.map(key).to(dtype).to(device));
            }
        });
    }

    /** N(0, std²) and bias 0, as transformers draws new heads. */
    private static void draw(String path, Linear layer, double std, Device device, Seed seed) {
        try (Scope scope = Scope.open();
                Generator generator = seed.named(path).generator()) {
            layer.reset(generator, std);
            move(layer.weightParameter(), device);
            if (layer.biasParameter() != null) {
                move(layer.biasParameter(), device);
            }
        }
    }

    private static void move(Parameter parameter, Device device) {
        parameter.set(parameter.tensor().to(device));
    }
}
