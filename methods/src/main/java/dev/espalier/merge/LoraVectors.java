package dev.espalier.merge;

import static dev.espalier.Check.check;

import dev.espalier.adapter.LoraFactors;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;

/** LoRAs of one kind as vectors: all A and B in the order of their names as text, each standardised, row by row. */
final class LoraVectors {

    private static final double LEAST = 1e-8; // of a deviation: B at the start has none
    private static final String A = ".lora_A.weight";
    private static final String B = ".lora_B.weight";

    private final Map<String, long[]> shapes = new TreeMap<>(); // layers.10 before layers.2
    private final Map<String, Double> scales = new LinkedHashMap<>(); // by path

    /** A LoRA as a vector [L], and what its tensors were shifted and scaled by, each [tensors]. */
    @SuppressWarnings("ArrayRecordComponent") // never compared
    record Vector(Tensor values, double[] means, double[] deviations) {}

    /** The kind of a given one. */
    LoraVectors(Map<String, LoraFactors> of) {
        tensors(of).forEach((name, t) -> shapes.put(name, t.shape()));
        of.forEach((path, f) -> scales.put(path, f.scale()));
    }

    /** L. */
    long length() {
        return shapes.values().stream().mapToLong(LoraVectors::count).sum();
    }

    private static long count(long[] shape) {
        return shape[0] * shape[1];
    }

    private static Map<String, Tensor> tensors(Map<String, LoraFactors> of) {
        Map<String, Tensor> all = new TreeMap<>();
        of.forEach((path, f) -> {
            all.put(path + A, f.a());
            all.put(path + B, f.b());
        });
        return all;
    }

    /** Stops if one is of another kind. */
    void require(String name, Map<String, LoraFactors> other) {
        Map<String, Tensor> theirs = tensors(other);
        check(
                theirs.keySet().equals(shapes.keySet()),
                "the adapters of %s stand on other layers than the first task's; generate from adapters with the same targets",
                name);
        theirs.forEach((key, t) -> check(
                Arrays.equals(t.shape(), shapes.get(key)),
                "%s of %s has the shape %s and that of the first task %s; generate from adapters of one rank on one base",
                key,
                name,
                Arrays.toString(t.shape()),
                Arrays.toString(shapes.get(key))));
        other.forEach((path, f) -> check(
                f.scale() == Objects.requireNonNull(scales.get(path)),
                "the scale of %s on %s is %s and that of the first task's adapters %s; generate from adapters of one lora_alpha",
                name,
                path,
                f.scale(),
                scales.get(path)));
    }

    /** Standardises each tensor by its own mean and deviation. */
    Vector vector(Map<String, LoraFactors> of) {
        double[] means = new double[shapes.size()];
        double[] deviations = new double[shapes.size()];
        List<Tensor> parts = new ArrayList<>();
        for (Tensor t : tensors(of).values()) {
            int i = parts.size();
            Tensor wide = t.detach().to(DType.FLOAT64).reshape(-1);
            means[i] = wide.mean().item();
            deviations[i] = Math.max(wide.numel() > 1 ? wide.std().item() : 0, LEAST);
            parts.add(wide.sub(means[i]).div(deviations[i]));
        }
        return new Vector(Tensor.cat(parts, 0), means, deviations);
    }

    /** The statistics of all of some together, by which each of them is standardised. */
    Vector together(List<Map<String, LoraFactors>> all) {
        List<Tensor> rows = all.stream().map(this::raw).toList();
        double[] means = new double[shapes.size()];
        double[] deviations = new double[shapes.size()];
        Tensor both = Tensor.stack(rows, 0); // [N, L]
        long at = 0;
        int i = 0;
        for (long[] shape : shapes.values()) {
            Tensor part = both.narrow(1, at, count(shape)).contiguous();
            means[i] = part.mean().item();
            deviations[i] = Math.max(part.std().item(), LEAST);
            at += count(shape);
            i++;
        }
        return new Vector(both, means, deviations);
    }

    /** By given statistics. */
    Tensor standardised(Map<String, LoraFactors> of, Vector by) {
        return raw(of).sub(spread(by.means())).div(spread(by.deviations()));
    }

    private Tensor raw(Map<String, LoraFactors> of) {
        return Tensor.cat(
                tensors(of).values().stream()
                        .map(t -> t.detach().to(DType.FLOAT64).reshape(-1))
                        .toList(),
                0);
    }

    /** One value for each number of its tensor: [L]. */
    private Tensor spread(double[] values) {
        List<Tensor> parts = new ArrayList<>();
        shapes.values().forEach(shape -> parts.add(Tensor.full(values[parts.size()], DType.FLOAT64, count(shape))));
        return Tensor.cat(parts, 0);
    }

    /** The LoRA that a vector [L or more] stands for. */
    Map<String, LoraFactors> restored(Vector vector) {
        Tensor values = vector.values()
                .to(DType.FLOAT64)
                .narrow(0, 0, length())
                .mul(spread(vector.deviations()))
                .add(spread(vector.means()));
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        long at = 0;
        for (Map.Entry<String, long[]> e : shapes.entrySet()) {
            long n = count(e.getValue());
            tensors.put(
                    e.getKey(), values.narrow(0, at, n).reshape(e.getValue()).to(DType.FLOAT32));
            at += n;
        }
        Map<String, LoraFactors> made = new LinkedHashMap<>();
        scales.forEach((path, scale) -> made.put(
                path,
                new LoraFactors(
                        Objects.requireNonNull(tensors.get(path + A)),
                        Objects.requireNonNull(tensors.get(path + B)),
                        scale,
                        null)));
        return made;
    }
}
