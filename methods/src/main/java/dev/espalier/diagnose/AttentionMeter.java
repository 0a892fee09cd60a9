package dev.espalier.diagnose;

import dev.espalier.nn.Layer;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import org.jspecify.annotations.Nullable;

/** Measures the queries and keys of one attention, with the adapters that are on it and without, as passes go by. */
final class AttentionMeter implements AutoCloseable {

    private final Side queries;
    private final Side keys;
    private final long headDim;
    private double bound;

    /** The map to queries or keys, what stands in for it, and what has been seen. */
    private static final class Side implements AutoCloseable {
        private final Layer layer;
        private final Layer.@Nullable Substitute adapted;
        private final double root; // √β
        private double all; // max |√β (x Wᵀ + its change)|
        private double base; // max |√β x Wᵀ|, a bias included
        private double change; // max |√β its change|
        private @Nullable Tensor norms; // [heads], the longest row of this pass

        Side(Layer layer, double root) {
            this.layer = layer;
            this.root = root;
            adapted = layer.substitute();
        }

        Tensor see(Tensor x, long headDim) {
            Tensor whole = adapted == null ? layer.compute(x) : adapted.forward(x, layer);
            try (Grad off = Grad.off();
                    Scope scope = Scope.open()) {
                Tensor plain = adapted == null ? whole : layer.compute(x);
                all = Math.max(all, largest(whole));
                base = Math.max(base, largest(plain));
                change = Math.max(change, adapted == null ? 0 : largest(whole.sub(plain)));
                DType wide = whole.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
                Tensor heads = whole.detach().to(wide).reshape(-1, whole.size(-1) / headDim, headDim); // [T, H, E]
                close();
                norms = heads.norm(2, false).amax(0, false).mul(root).keep();
            }
            return whole;
        }

        private double largest(Tensor t) {
            return root * t.abs().max().item();
        }

        @Override
        public void close() {
            if (norms != null) {
                norms.close();
                norms = null;
            }
        }
    }

    /**
     * Starts measuring; to be closed, which puts back what stood in before.
     *
     * @param queries to [H E]
     * @param keys to [K E], K a divisor of H
     * @param headDim E
     * @param beta what scores are multiplied by
     */
    AttentionMeter(Layer queries, Layer keys, long headDim, double beta) {
        this.queries = new Side(queries, Math.sqrt(beta));
        this.keys = new Side(keys, Math.sqrt(beta));
        this.headDim = headDim;
        queries.substitute((x, layer) -> {
            Tensor y = this.queries.see(x, headDim);
            meet();
            return y;
        });
        keys.substitute((x, layer) -> {
            Tensor y = this.keys.see(x, headDim);
            meet();
            return y;
        });
    }

    /** Both have been seen: the bound on the scores, of the worst head. */
    private void meet() {
        Tensor q = queries.norms;
        Tensor k = keys.norms;
        if (q == null || k == null) {
            return;
        }
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            Tensor grouped = q.reshape(k.size(0), -1); // the heads that share a key
            bound = Math.max(bound, grouped.mul(k.unsqueeze(1)).max().item());
        }
        queries.close();
        keys.close();
    }

    /** Γ = max(|√β Q|, |√β K|), adapters included. */
    double gamma() {
        return Math.max(queries.all, keys.all);
    }

    /** M: no score is larger. */
    double bound() {
        return bound;
    }

    /** E. */
    long headDim() {
        return headDim;
    }

    /** Of queries: the layer's part of Γ, then the adapters'. */
    double[] ofQueries() {
        return new double[] {queries.base, queries.change};
    }

    /** Of keys. */
    double[] ofKeys() {
        return new double[] {keys.base, keys.change};
    }

    @Override
    public void close() {
        queries.close();
        keys.close();
        queries.layer.substitute(queries.adapted);
        keys.layer.substitute(keys.adapted);
    }
}
