package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorInfo;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Compressed weights in a model folder, and the codes beside them. */
public final class CompressedFolder {

    /** The file of codes beside the weights. */
    public static final String CODES = "codes.safetensors";

    /** In the codes' metadata: the method that decodes them. */
    private static final String CODED_BY = "coded_by";

    private CompressedFolder() {}

    /** Puts the weights of a folder in place of a network's. */
    static CompressionReport compress(Path folder, Targets targets, Compressor.Subject subject) {
        check(Files.isDirectory(folder), "compress.of.from: %s is no folder; name one that compress wrote", folder);
        List<CompressionReport.Row> rows = new ArrayList<>();
        try (TensorSource source = Safetensors.open(folder)) {
            for (Site site : subject.sites(targets)) {
                try (Scope scope = Scope.open()) {
                    String key = site.path() + ".weight";
                    long[] shape = site.layer().weightParameter().shape();
                    TensorInfo info = source.info(key);
                    check(
                            info.shape().equals(Arrays.stream(shape).boxed().toList()),
                            "compress.of.from: %s has %s of shape %s and the model %s; name a folder of the same model",
                            folder,
                            key,
                            info.shape(),
                            Arrays.toString(shape));
                    Tensor w = Weights.of(site.layer());
                    Tensor former = site.layer().weightParameter().tensor();
                    Tensor given = source.read(key);
                    double bits = 8.0 * given.dtype().bytes();
                    site.layer().weightParameter().set(given.to(former.dtype()).to(former.device()));
                    double error = CompressionReport.error(w, Weights.of(site.layer()));
                    rows.add(CompressionReport.Row.of(site, bits, error, error));
                }
            }
        }
        Path file = folder.resolve(CODES);
        if (!Files.isRegularFile(file)) {
            return new CompressionReport(rows, Map.of(), "", "weight", List.of());
        }
        try (TensorSource codes = Safetensors.open(file)) {
            Map<String, Tensor> all = new LinkedHashMap<>();
            codes.tensors().keySet().forEach(name -> all.put(name, codes.read(name)));
            String codedBy = codedBy(codes);
            return new CompressionReport(
                    rows.stream().map(row -> row.withBits(bits(all, row))).toList(), all, codedBy, "weight", List.of());
        }
    }

    /** Bits that a weight takes by the codes' own tensors. */
    private static double bits(Map<String, Tensor> codes, CompressionReport.Row row) {
        long bytes = codes.entrySet().stream()
                .filter(e ->
                        e.getKey().startsWith(row.path() + ".") && !e.getKey().endsWith(".format"))
                .mapToLong(e -> e.getValue().bytes())
                .sum();
        return bytes == 0 ? row.bits() : 8.0 * bytes / row.weights();
    }

    /** Writes the codes of a report beside weights. */
    public static void writeCodes(CompressionReport report, Path folder) {
        Safetensors.write(folder.resolve(CODES), report.codes(), Map.of(CODED_BY, report.codedBy()));
    }

    /** The method that decodes a file of codes. */
    public static String codedBy(TensorSource codes) {
        String name = codes.metadata().get(CODED_BY);
        check(name != null, "%s does not say which method decodes it; write it anew by compress", codes.where());
        return java.util.Objects.requireNonNull(name);
    }
}
