package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.Catalog;
import dev.espalier.compress.Coded;
import dev.espalier.compress.CompressedFolder;
import dev.espalier.compress.CompressionReport;
import dev.espalier.compress.Compressor;
import dev.espalier.compress.Cut;
import dev.espalier.io.Fields;
import dev.espalier.io.Json;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.nn.Layer;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * A recipe for compressing carried out: a model folder with compressed weights, and an adapter on it if the method makes one.
 *
 * <pre>{@code
 * model: minilm
 * compress: {type: eora, r: 32, of: {type: rtn, bits: 3}}
 * task: {type: causal-lm, data: texts.jsonl}      # calibration, and what is held out of it to judge by
 * out: out/compressed
 * }</pre>
 *
 * <p>Of {@code train} count {@code batch} (for judging), {@code seed}, {@code precision} and {@code device}.
 *
 * @param report what became of each layer; its codes are closed
 * @param base the model folder, {@code out/base}
 * @param adapter the adapter's folder, {@code out/adapter}, or null if there is none
 * @param before metrics on held-out data; empty where there are none, or where a head is new and says nothing yet
 * @param compressed the same with compressed weights
 * @param compensated the same with the adapter; empty if there is none
 */
public record Compression(
        CompressionReport report,
        Path base,
        @Nullable Path adapter,
        Map<String, Double> before,
        Map<String, Double> compressed,
        Map<String, Double> compensated) {

    private static final String SECTION = "compress";

    /**
     * Compresses, saves and reads back: the codes, where there are any, decode to the very weights of the folder.
     *
     * @throws dev.espalier.EspalierException if {@code out} holds something, or the recipe does not fit model or data
     */
    public static Compression of(Recipe recipe, LoadOptions options) {
        Path out = recipe.requireOut();
        Run.checkFree(out, false);
        Fields section = recipe.section(SECTION);
        Compressor<?> method = Catalog.method(section.string("type"), Compressor.class, SECTION + ".type", "lq-lora");
        Compressor.Chosen<?> chosen = Compressor.Chosen.read(method, section);
        section.done();
        Seed seed = new Seed(recipe.train().config().seed());
        try (Run run = Run.bare(recipe, options, SECTION);
                Scope scope = Scope.open()) {
            run.pretrained().model().train(false);
            boolean judged = run.pretrained().drawnLayers().isEmpty();
            Map<String, Double> before = judged ? run.evaluate() : Map.of();
            AdaptedModel model = run.adapted();
            CompressionReport report = chosen.compress(new Compressor.Subject(model, run.heads(), run.singly(), seed));
            boolean attached = !model.names().isEmpty();
            model.disable();
            Map<String, Double> compressed = judged ? run.evaluate() : Map.of();
            Path base = out.resolve("base");
            Models.save(run.pretrained(), base, cut(run, report));
            if (!report.codes().isEmpty()) {
                CompressedFolder.writeCodes(report, base);
            }
            String sha256 = readBack(run, base, report);
            Map<String, Double> compensated = Map.of();
            Path adapter = null;
            if (attached) {
                model.activate(Compressor.ADAPTER);
                compensated = judged ? run.evaluate() : Map.of();
                adapter = out.resolve("adapter");
                Run.save(
                        model,
                        adapter,
                        run.receipt(base.toAbsolutePath().normalize().toString(), sha256));
            }
            Compression done = new Compression(report, base, adapter, before, compressed, compensated);
            Map<String, Object> facts = done.facts();
            facts.put("recipe", recipe.settings());
            Json.write(out.resolve("compress.json"), facts);
            return done;
        }
    }

    /** The file that says what was kept of which model, where adapters of the result are for that one. */
    private static Map<String, String> cut(Run run, CompressionReport report) {
        if (report.kept() == null) {
            return Map.of();
        }
        Cut former = Cut.find(run.pretrained());
        Cut whole = former != null
                ? former
                : new Cut(run.baseName(), run.pretrained().origin().sha256(), List.of());
        return Map.of(Models.CUT, whole.then(report.kept()).text());
    }

    /** The checksum of the weights that were written; stops if their codes mean others. */
    private static String readBack(Run run, Path base, CompressionReport report) {
        Pretrained written = run.pretrained();
        Precision precision = written.model().backbone().dtype() == DType.BFLOAT16 ? Precision.BF16 : Precision.FP32;
        LoadOptions options = LoadOptions.defaults().withPrecision(precision).withDevice(Device.CPU);
        try (Pretrained read = Models.load(base, Run.purpose(run.recipe().task().type(), run.labels()), options)) {
            if (!report.codes().isEmpty()) {
                try (TensorSource codes = Safetensors.open(base.resolve(CompressedFolder.CODES))) {
                    Coded coded = Catalog.method(CompressedFolder.codedBy(codes), Coded.class, "codes", "lq-lora");
                    for (CompressionReport.Row row : report.rows()) {
                        checkCodes(coded, codes, (Layer) read.model().module(row.path()), row.path());
                    }
                }
            }
            return read.origin().sha256();
        }
    }

    private static void checkCodes(Coded coded, TensorSource codes, Layer layer, String path) {
        try (Scope scope = Scope.open()) {
            Tensor decoded = layer.stored(coded.decode(codes, path).to(layer.dtype()));
            check(
                    decoded.equal(layer.weightParameter().tensor()),
                    "the codes of %s that were written do not decode to its weights; please report it",
                    path);
        }
    }

    /** For programs. */
    public Map<String, Object> facts() {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("base", base.toString());
        facts.put("adapter", adapter == null ? "" : adapter.toString());
        facts.put("weights", report.weights());
        facts.put("bits", report.bits());
        facts.put("measure", report.measure());
        facts.put("error_before", report.before());
        facts.put("error_after", report.after());
        facts.put("metrics_before", before);
        facts.put("metrics_compressed", compressed);
        facts.put("metrics_compensated", compensated);
        facts.put("notes", report.notes());
        facts.put(
                "layers",
                report.rows().stream()
                        .map(row -> Map.of(
                                "path", row.path(),
                                "shape", List.of(row.out(), row.in()),
                                "bits", row.bits(),
                                "error_before", row.before(),
                                "error_after", row.after()))
                        .toList());
        return facts;
    }
}
