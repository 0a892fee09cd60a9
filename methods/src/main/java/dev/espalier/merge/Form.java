package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.io.Fields;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Where tensors are combined: the factors A and B each by itself, or the changes D = s B A, which a truncated singular value
 * decomposition brings back to factors.
 *
 * <pre>{@code
 * factors  A* = f(A_i; sign(p_i) √|p_i|),  B* = f(B_i; √|p_i|),  p_i = w_i s_i      all ranks equal
 * changes  f(D_i; w_i) = U S Vᵀ,  B* = U_R S_R,  A* = V_Rᵀ                       any ranks
 * }</pre>
 *
 * <p>The result's scale is 1. As in PEFT, the factors of the first form are combined as they stand, without s_i and w_i, which
 * come in as weights. Computed in float64. The signs of singular vectors are fixed so that the largest entry of each column of U
 * is positive: with {@code svd_clamp} they matter.
 *
 * @param svd whether changes are combined instead of factors
 * @param svdRank [svd_rank] R; 0 for the largest rank of the adapters
 * @param svdClamp [svd_clamp] quantile of all entries of A* and B* to whose value they are clamped, in (0, 1]; 0 for none
 */
public record Form(boolean svd, int svdRank, double svdClamp) {

    /** Factors. */
    public static final Form FACTORS = new Form(false, 0, 0);

    /** What the settings mean. */
    private static final Map<String, String> MEANINGS = Map.of(
            "svd",
                    "combine the changes s B A, and bring the result back to factors; else combine A and B each by itself",
            "svd_rank", "rank of the result with svd, at least 1; 0 for the largest of the adapters",
            "svd_clamp", "clamp A and B to this quantile of their entries with svd, in (0, 1]; 0 for none");

    /** Checks ranges. */
    public Form {
        check(svdRank >= 0, "svd_rank must be at least 1, or 0 for the adapters' own, found %d", svdRank);
        check(
                svdClamp >= 0 && svdClamp <= 1,
                "svd_clamp must lie in (0, 1], or be 0 for none, found %s; try 0.99",
                svdClamp);
        check(
                svd || (svdRank == 0 && svdClamp == 0),
                "svd_rank and svd_clamp are for svd, which is off; set svd to true or leave them out");
    }

    /** Combines tensors of one shape. */
    @FunctionalInterface
    interface Combination {
        /**
         * The combination.
         *
         * @param x the tensors
         * @param weights one each
         * @param at what they are, such as a layer's path and {@code .lora_A}, to name random streams by
         */
        Tensor combine(List<Tensor> x, double[] weights, String at);
    }

    static Form read(Fields f) {
        return new Form(f.bool("svd", false), f.integer("svd_rank", 0), f.number("svd_clamp", 0));
    }

    /** These settings' meanings and a method's own. */
    static Map<String, String> meanings(Map<String, String> own) {
        Map<String, String> all = new HashMap<>(MEANINGS);
        all.putAll(own);
        return all;
    }

    /** Merges; a single adapter is w D whatever the combination, as in PEFT. */
    Map<String, LoraFactors> merge(List<Merger.Source> sources, Combination combination) {
        if (sources.size() == 1) {
            return Merger.byLayer(
                    sources, (path, parts) -> ofFactors(path, parts, (x, c, at) -> TaskVectors.sum(x, c)));
        }
        int rank = svdRank > 0 ? svdRank : largestRank(sources);
        return Merger.byLayer(
                sources,
                (path, parts) -> svd ? ofChanges(path, parts, combination, rank) : ofFactors(path, parts, combination));
    }

    static int largestRank(List<Merger.Source> sources) {
        return sources.stream()
                .flatMap(source -> source.layers().values().stream())
                .mapToInt(factors -> Math.toIntExact(factors.rank()))
                .max()
                .orElse(0);
    }

    private static LoraFactors ofFactors(String path, List<Merger.Part> parts, Combination combination) {
        Merger.Part first = parts.get(0);
        double[] forA = new double[parts.size()];
        double[] forB = new double[parts.size()];
        for (int i = 0; i < forA.length; i++) {
            Merger.Part part = parts.get(i);
            check(
                    part.factors().rank() == first.factors().rank(),
                    "on %s %s has rank %d and %s rank %d, but factors are combined entry by entry; use svd, cat or lora-lego, or set svd to true",
                    path,
                    first.name(),
                    first.factors().rank(),
                    part.name(),
                    part.factors().rank());
            double p = part.weight() * part.factors().scale();
            forB[i] = Math.sqrt(Math.abs(p));
            forA[i] = p < 0 ? -forB[i] : forB[i];
        }
        return narrow(
                combination.combine(
                        parts.stream()
                                .map(p -> p.factors().a().to(DType.FLOAT64))
                                .toList(),
                        forA,
                        path + ".lora_A"),
                combination.combine(
                        parts.stream()
                                .map(p -> p.factors().b().to(DType.FLOAT64))
                                .toList(),
                        forB,
                        path + ".lora_B"),
                first.factors().a().dtype());
    }

    private LoraFactors ofChanges(String path, List<Merger.Part> parts, Combination combination, int rank) {
        List<Tensor> changes = parts.stream()
                .map(p -> p.factors()
                        .b()
                        .to(DType.FLOAT64)
                        .matmul(p.factors().a().to(DType.FLOAT64))
                        .mul(p.factors().scale()))
                .toList();
        double[] weights = parts.stream().mapToDouble(Merger.Part::weight).toArray();
        List<Tensor> svd =
                combination.combine(changes, weights, path + ".delta").svd();
        return truncated(svd, rank, path, parts.get(0).factors().a().dtype());
    }

    /** Factors of rank R of U S Vᵀ, with zeros where there are fewer singular values. */
    LoraFactors truncated(List<Tensor> svd, int rank, String path, DType dtype) {
        long known = Math.min(rank, svd.get(1).numel());
        Tensor u = svd.get(0).narrow(1, 0, known); // [out, known]
        Tensor sign = u.gather(0, u.abs().argmax(0).unsqueeze(0)).sign(); // [1, known]
        Tensor b = u.mul(sign).mul(svd.get(1).narrow(0, 0, known)); // [out, known]
        Tensor a = svd.get(2).narrow(0, 0, known).mul(sign.t()); // [known, in]
        if (known < rank) {
            b = b.pad(0, rank - known);
            a = a.pad(0, 0, 0, rank - known);
        }
        if (svdClamp > 0) {
            double high = quantile(Tensor.cat(List.of(b.reshape(-1), a.reshape(-1)), 0), svdClamp);
            check(
                    high > 0,
                    "svd_clamp: the %s quantile of the entries on %s is %s, and clamping to it would leave nothing; try 0.99",
                    svdClamp,
                    path,
                    high);
            a = a.clamp(-high, high);
            b = b.clamp(-high, high);
        }
        return narrow(a, b, dtype);
    }

    /** The value below which a share q of the entries lies, linear between neighbours. */
    private static double quantile(Tensor entries, double q) {
        Tensor sorted = entries.sort(0, false).get(0);
        double at = q * (sorted.numel() - 1);
        long below = (long) Math.floor(at);
        double low = sorted.select(0, below).item();
        double next = sorted.select(0, Math.min(below + 1, sorted.numel() - 1)).item();
        return low + (at - below) * (next - low);
    }

    private static LoraFactors narrow(Tensor a, Tensor b, DType dtype) {
        return new LoraFactors(a.to(dtype), b.to(dtype), 1, null);
    }
}
