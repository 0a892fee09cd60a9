package dev.espalier.adapter;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * LoRA's factors, of which the first b components are factors of rank b, for each b to r.
 *
 * <p>A and B are parameters, or each of their components is one.
 */
final class NestedFactors {

    interface Use {
        void of(Parameter p, int k);
    }

    final Factors factors; // the start, and what LoRA's layers share
    final String nameOfA;
    final String nameOfB;
    final List<Parameter> a; // A [r, in], or r times [1, in]
    final List<Parameter> b; // B [out, r], or r times [out, 1]
    private final boolean frozen;

    /**
     * Factors at LoRA's start.
     *
     * @param split whether each component is a parameter
     * @param frozen whether the last of the first so many learns alone
     */
    NestedFactors(Factors factors, int r, boolean split, boolean frozen) {
        this.factors = factors;
        this.frozen = frozen;
        List<String> names = List.copyOf(factors.named().keySet());
        this.nameOfA = names.get(0);
        this.nameOfB = names.get(1);
        this.a = split ? components(factors.a, 0, r) : List.of(factors.a);
        this.b = split ? components(factors.b, 1, r) : List.of(factors.b);
    }

    private static List<Parameter> components(Parameter whole, int dim, int r) {
        List<Parameter> parts = new ArrayList<>();
        try (Scope scope = Scope.open()) {
            for (int k = 0; k < r; k++) {
                Parameter part =
                        new Parameter(whole.tensor().detach().narrow(dim, k, 1).clone());
                part.trainable(true);
                parts.add(part);
            }
        }
        whole.tensor().close();
        return parts;
    }

    /** Each parameter with the number of its component. */
    void each(Use use) {
        for (int k = 0; k < a.size(); k++) {
            use.of(a.get(k), k);
            use.of(b.get(k), k);
        }
    }

    /** The first so many components, only the last of them with a gradient if the others are frozen. */
    Tensor first(List<Parameter> parts, int dim, int rank) {
        List<Tensor> pieces = new ArrayList<>();
        if (parts.size() == 1) {
            Tensor whole = parts.get(0).tensor();
            if (!frozen || rank == 1) {
                return whole.narrow(dim, 0, rank);
            }
            pieces.add(whole.narrow(dim, 0, rank - 1).detach());
            pieces.add(whole.narrow(dim, rank - 1, 1));
        } else {
            for (int k = 0; k < rank; k++) {
                Tensor part = parts.get(k).tensor();
                pieces.add(frozen && k < rank - 1 ? part.detach() : part);
            }
        }
        return Tensor.cat(pieces, dim);
    }

    /** All components. */
    static Tensor whole(List<Parameter> parts, int dim) {
        return parts.size() == 1
                ? parts.get(0).tensor()
                : Tensor.cat(parts.stream().map(Parameter::tensor).toList(), dim);
    }

    /** By name; with a number where a component is a parameter. */
    Map<String, Parameter> named() {
        if (a.get(0) == factors.a) {
            return factors.named();
        }
        Map<String, Parameter> named = new LinkedHashMap<>();
        each((p, k) -> named.put((a.get(k) == p ? nameOfA : nameOfB) + "." + k, p));
        return named;
    }
}
