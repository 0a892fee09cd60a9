package dev.espalier.compress;

import static dev.espalier.Check.check;

import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Catalog;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LoraFactors;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.adapter.Targets;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * EoRA: a LoRA, computed without training, that takes back most of what compression did to each layer's output.
 *
 * <p>Liu et al., <i>EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank Approximation</i>,
 * arXiv:2410.21271, section 3.
 *
 * <pre>{@code
 * C = Xᵀ X = V L Vᵀ,   P = V √L,   (W - W_c) P = U S Zᵀ
 * B = U_r √S_r,   A = √S_r Z_rᵀ P⁺,   y = x W_cᵀ + b + (x Aᵀ) Bᵀ
 * X [tokens, in], what the layer receives    W, W_c [out, in]    A [r, in]    B [out, r]
 * }</pre>
 *
 * <p>Of all products of rank r, B A has the least ‖X (W - W_c - B A)ᵀ‖. Blocks are done in order: inside a block layers receive
 * what the original weights make of the compensated blocks below. Directions that inputs never take are left out of P⁺; the
 * authors' code inverts their noise. Its sum of C lets early sequences weigh less, which {@code average: decayed} does too.
 * Checked against hand-derived optima.
 */
public final class Eora implements Compressor<Eora.Config> {

    /** How sequences are weighed in C. */
    public enum Average {
        /** All alike, as the paper. */
        PLAIN,
        /** The first about 0.37 of the last, as the authors' code. */
        DECAYED
    }

    /** What is compensated. */
    public sealed interface Source {

        /** Puts the compressed weights in place. */
        CompressionReport compress(Subject subject);

        /** The layers meant. */
        Targets targets();

        /** Weights that a method compresses now. */
        record Of<C>(WeightCompressor<C> method, C config) implements Source {
            @Override
            public CompressionReport compress(Subject subject) {
                return method.compress(config, subject);
            }

            @Override
            public Targets targets() {
                return method.targets(config);
            }

            static <C> Of<C> read(WeightCompressor<C> method, Fields f) {
                return new Of<>(method, method.read(f));
            }
        }

        /** Weights that were compressed before, in a model folder. */
        record From(Path folder, Targets targets) implements Source {
            @Override
            public CompressionReport compress(Subject subject) {
                return CompressedFolder.compress(folder, targets, subject);
            }
        }
    }

    /**
     * Settings.
     *
     * @param r rank, at least 1
     * @param sequences examples to run, at most
     * @param average how they are weighed
     * @param of what is compensated
     */
    public record Config(int r, int sequences, Average average, Source of) {

        /** Checks ranges. */
        public Config {
            check(r >= 1, "r must be at least 1, found %d; try 128", r);
            check(sequences >= 1, "sequences must be at least 1, found %d; try 64", sequences);
        }
    }

    private static final Pattern BLOCK = Pattern.compile("(.*?\\.\\d+)\\..*");

    @Override
    public About about() {
        return new About(
                "eora",
                "compressor",
                "a LoRA, computed without training, that compensates compression",
                "Liu et al., EoRA: Fine-tuning-free Compensation for Compressed LLM with Eigenspace Low-Rank Approximation,"
                        + " arXiv:2410.21271",
                """
                C = Xᵀ X,  P Pᵀ = C,  (W - W_c) P = U S Zᵀ,  B = U_r √S_r,  A = √S_r Z_rᵀ P⁺
                y = x W_cᵀ + b + (x Aᵀ) Bᵀ
                X [tokens, in] what the layer receives; W, W_c [out, in]; A [r, in], B [out, r]""",
                "rtn or prune-2-4 (of: {type: rtn}), or a folder compressed before (of: {from: DIR}); then any training",
                "a model folder with W_c, its codes where there are any, and a plain LoRA with s = 1",
                false);
    }

    @Override
    public Map<String, String> meanings() {
        Map<String, String> meanings = new LinkedHashMap<>();
        meanings.put("r", "rank, 1 to the smaller width of the layers");
        meanings.put("sequences", "examples of the task's data to run, at least 1; all where there are fewer");
        meanings.put("average", "plain, or decayed: early sequences weigh less, as in the authors' code");
        meanings.put("of.type", "what is compensated: rtn or prune-2-4, with its settings beside it");
        meanings.put("of.from", "instead of a type: a folder with compressed weights of the same model");
        new RoundToNearest().meanings().forEach((name, meaning) -> meanings.put("of." + name, meaning));
        return meanings;
    }

    @Override
    public Config read(Fields f) {
        return new Config(
                f.integer("r", 128),
                f.integer("sequences", 64),
                f.choice("average", Average.PLAIN),
                source(f.fields("of")));
    }

    private static Source source(Fields of) {
        String from = of.orNull("from", Fields::string);
        if (from != null) {
            check(!of.has("type"), "compress.of has a type and from; set one of the two");
            return new Source.From(Path.of(from), Targets.read(of));
        }
        String type = of.string("type", "rtn");
        WeightCompressor<?> method = Catalog.method(type, WeightCompressor.class, "compress.of.type", "rtn");
        return Source.Of.read(method, of);
    }

    @Override
    public CompressionReport compress(Config config, Subject subject) {
        subject.data().require("eora");
        List<Site> sites = subject.sites(config.of().targets());
        Lora.Config lora = Lora.Config.of(config.r(), config.r()); // s = 1
        AdapterSpec<Lora.Config> spec =
                AdapterSpec.of(new Lora.Type(), lora, config.of().targets());
        Attached adapter =
                subject.model().attach(ADAPTER, spec.withModulesToSave(subject.modulesToSave()), subject.seed());
        List<CompressionReport.Row> rows = new ArrayList<>();
        List<String> notes = new ArrayList<>();
        CompressionReport compressed;
        try (Grad off = Grad.off();
                Scope all = Scope.open()) {
            Map<String, Tensor> originals = new LinkedHashMap<>();
            sites.forEach(
                    site -> originals.put(site.path(), Weights.of(site.layer()).clone()));
            compressed = config.of().compress(subject);
            compressed.codes().values().forEach(all::promote);
            Map<String, Double> bits = new LinkedHashMap<>();
            compressed.rows().forEach(row -> bits.put(row.path(), row.bits()));
            long blind = 0; // layers
            double silent = 0; // shares of directions
            for (List<Site> block : blocks(sites)) {
                try (ReceivedInputs inputs = ReceivedInputs.of(
                        block, originals, subject.data(), config.sequences(), config.average() == Average.DECAYED)) {
                    for (Site site : block) {
                        Tensor w = Objects.requireNonNull(originals.get(site.path()));
                        Covariance c = inputs.at(site.path());
                        double bitsHere = bits.getOrDefault(site.path(), 0.0);
                        rows.add(compensate(site, w, c, adapter.lowRank(site.path()), bitsHere));
                        blind += c.root().dropped() > 0 ? 1 : 0;
                        silent += (double) c.root().dropped() / site.layer().inFeatures();
                    }
                }
            }
            if (blind > 0) {
                notes.add(
                        "%d of %d layers receive inputs that leave directions out, on average %.0f %% of them, which are not compensated; more sequences may reach them"
                                .formatted(blind, sites.size(), 100 * silent / sites.size()));
            }
        }
        return new CompressionReport(rows, compressed.codes(), compressed.codedBy(), "output", notes);
    }

    /** Sets A and B so that the layer's output comes near the original's. */
    private static CompressionReport.Row compensate(Site site, Tensor w, Covariance c, LowRank lora, double bits) {
        try (Scope scope = Scope.open()) {
            Tensor lost = w.sub(Weights.of(site.layer())); // W - W_c, as it is served
            LoraFactors factors = factors(lost, c, lora.a().shape()[0]);
            lora.a().tensor().copy_(factors.a());
            lora.b().tensor().copy_(factors.b());
            Tensor left = lost.sub(lora.b().tensor().matmul(lora.a().tensor()).to(Device.CPU));
            double all = c.norm(w);
            return CompressionReport.Row.of(
                    site, bits, CompressionReport.ratio(c.norm(lost), all), CompressionReport.ratio(c.norm(left), all));
        }
    }

    /**
     * The best product of rank r for what is lost.
     *
     * @param lost W - W_c [out, in]
     * @param c of the layer's inputs
     * @param r at most min(out, in) count; the rest are zeros
     * @return float64, in the current scope, with s = 1
     */
    static LoraFactors factors(Tensor lost, Covariance c, long r) {
        Covariance.Root root = c.root();
        List<Tensor> svd = lost.to(DType.FLOAT64).matmul(root.p()).svd();
        long k = Math.min(r, svd.get(1).numel());
        Tensor half = svd.get(1).narrow(0, 0, k).sqrt(); // √S_r [k]
        Tensor b = svd.get(0).narrow(1, 0, k).mul(half);
        Tensor a = svd.get(2).narrow(0, 0, k).mul(half.unsqueeze(1)).matmul(root.inverse());
        return new LoraFactors(a.pad(0, 0, 0, r - k), b.pad(0, r - k), 1, null);
    }

    /** Layers in blocks, in order: those with the same path up to the first number; any other is a block of its own. */
    static List<List<Site>> blocks(List<Site> sites) {
        Map<String, List<Site>> blocks = new LinkedHashMap<>();
        for (Site site : sites) {
            Matcher block = BLOCK.matcher(site.path());
            blocks.computeIfAbsent(block.matches() ? block.group(1) : site.path(), b -> new ArrayList<>())
                    .add(site);
        }
        return List.copyOf(blocks.values());
    }
}
