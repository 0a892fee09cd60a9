package dev.espalier.federated;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Site;
import dev.espalier.data.Batch;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Layer;
import dev.espalier.nn.Parameter;
import dev.espalier.task.Task;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * What each sample of a batch would add to the gradient of a LoRA's factors, from one forward and one backward pass over the
 * batch.
 *
 * <p>While it runs a batch it stands in for the adapted layers, and adds to each output a tensor of zeros, whose gradient is the
 * output's: g_t = dL/dy_t. With it and what the layer received, a sample's gradient is a sum of outer products,
 *
 * <pre>{@code
 * y_t = W x_t + b + s B A d_t,   d = drop(x)
 * dL/dB = Σ_t g_t u_tᵀ,  u_t = s A d_t        dL/dA = Σ_t v_t d_tᵀ,  v_t = s Bᵀ g_t
 * ‖Σ_t g_t u_tᵀ‖² = Σ_{t,t'} (g_t · g_t') (u_t · u_t')        Σ_i f_i Σ_t g_it u_itᵀ = (f ∘ g)ᵀ u
 * }</pre>
 *
 * so that norms need no sample's gradient ("ghost norms": Li et al., <i>Large Language Models Can Be Strong Differentially Private
 * Learners</i>, arXiv:2110.05679, section 4), and the sum of clipped gradients is one matrix product a layer, without the second
 * backward pass that is usual.
 */
final class PerSampleGradients {

    private final Attached adapter;
    private final List<Tap> taps = new ArrayList<>();
    private final Set<Parameter> trained;
    private final double dropout;

    /**
     * @param trained factors of the adapter, all in sight of each sample alone
     * @param dropout share of each layer's input that the adapter drops in training
     */
    PerSampleGradients(Attached adapter, Iterable<Parameter> trained, double dropout) {
        this.adapter = adapter;
        this.trained = new HashSet<>();
        trained.forEach(this.trained::add);
        this.dropout = dropout;
        for (Site site : adapter.sites()) {
            check(
                    !(site.layer() instanceof Embedding),
                    "%s is an embedding, whose gradient is not taken apart by sample; federate adapters of linear layers",
                    site.path());
        }
    }

    /** What a layer received and gave, all [n, T, ..]; kept, for the network frees what is made in its layers. */
    private record Tap(LowRank lowRank, Tensor input, Tensor down, Tensor probe) {
        void close() {
            input.close();
            down.close();
            probe.close();
        }
    }

    private Tensor forward(Tensor x, Layer layer, LowRank lowRank) {
        Tensor rows = x.dim() == 2 ? x.unsqueeze(1) : x; // [n, T, in]
        Tensor dropped = dropout > 0 && layer.isTraining() ? rows.dropout(dropout, true) : rows;
        Tensor a = lowRank.a().tensor().detach(); // constants here: what trains is told from the taps
        Tensor b = lowRank.b().tensor().detach();
        Tensor down = dropped.linear(a, null).mul(lowRank.scale()); // u [n, T, r]
        Tensor y = layer.compute(rows).add(down.linear(b, null)); // [n, T, out]
        Tensor probe = y.detach().zerosLike().requiresGrad_(true);
        taps.add(new Tap(lowRank, dropped.detach().keep(), down.detach().keep(), probe.keep()));
        Tensor out = y.add(probe);
        return x.dim() == 2 ? out.squeeze(1) : out;
    }

    /**
     * Runs a batch.
     *
     * @return its gradients, in the current scope
     */
    Taken of(Task task, Batch batch) {
        try {
            double loss = run(task, batch);
            List<Outer> outers = new ArrayList<>();
            try (Grad off = Grad.off()) {
                Set<LowRank> seen = new HashSet<>();
                for (Tap tap : taps) {
                    check(seen.add(tap.lowRank), "a layer runs twice for one batch; leave it out of targets");
                    addOuters(tap, batch, outers);
                }
            }
            return new Taken(loss, outers, perTarget(batch));
        } finally {
            taps.forEach(Tap::close);
            taps.clear();
        }
    }

    private void addOuters(Tap tap, Batch batch, List<Outer> outers) {
        check(
                tap.input.size(0) == batch.inputIds().size(0),
                "a layer received %d rows for %d samples, so its gradient cannot be taken apart by sample; leave it out of targets",
                tap.input.size(0),
                batch.inputIds().size(0));
        Tensor gradient = tap.probe.grad();
        if (gradient == null) {
            return; // the loss does not depend on it
        }
        Parameter a = tap.lowRank.a();
        Parameter b = tap.lowRank.b();
        DType wide = b.tensor().dtype();
        Tensor g = gradient.to(wide); // [n, T, out]
        if (trained.contains(b)) {
            outers.add(new Outer(b, g, tap.down.detach().to(wide)));
        }
        if (trained.contains(a)) {
            Tensor v = g.matmul(b.tensor()).mul(tap.lowRank.scale()); // [n, T, r]
            outers.add(new Outer(a, v, tap.input.detach().to(wide)));
        }
    }

    private double run(Task task, Batch batch) {
        Map<Layer, Layer.@Nullable Substitute> before = new LinkedHashMap<>();
        for (Site site : adapter.sites()) {
            LowRank lowRank = adapter.lowRank(site.path());
            before.put(site.layer(), site.layer().substitute());
            site.layer().substitute((x, layer) -> forward(x, layer, lowRank));
        }
        try {
            Tensor loss = task.loss(batch);
            loss.backward();
            return loss.item();
        } finally {
            before.forEach(Layer::substitute);
        }
    }

    /** 1 over the targets of each sample: its own loss is a mean over its tokens. */
    private static double[] perTarget(Batch batch) {
        int n = Math.toIntExact(batch.inputIds().size(0));
        double[] weights = new double[n];
        Arrays.fill(weights, 1);
        Tensor labels = batch.labels();
        if (labels != null && labels.dim() == 2) {
            double[] targets = labels.narrow(1, 1, labels.size(1) - 1)
                    .ne(Batch.IGNORED)
                    .to(DType.FLOAT64)
                    .sum(1, false)
                    .doubles();
            Arrays.setAll(weights, i -> 1 / Math.max(1, targets[i]));
        }
        return weights;
    }

    /**
     * Sums of outer products of one layer's factor.
     *
     * @param left [n, T, p]
     * @param right [n, T, q]; a sample's gradient is Σ_t left_t right_tᵀ [p, q]
     */
    record Outer(Parameter parameter, Tensor left, Tensor right) {

        /** ‖gradient‖² of each sample [n], by whichever of the two ways multiplies less. */
        Tensor squaredNorms() {
            long t = left.size(1);
            long p = left.size(2);
            long q = right.size(2);
            return t * (p + q) < p * q ? ghost() : explicit();
        }

        Tensor ghost() {
            Tensor gram = left.matmul(left.mT()).mul(right.matmul(right.mT())); // [n, T, T]
            return gram.sum(2, false).sum(1, false);
        }

        Tensor explicit() {
            return left.mT().matmul(right).square().sum(2, false).sum(1, false); // of [n, p, q]
        }

        /** Σ_i f_i gradient_i, for factors [n]. */
        Tensor weighted(Tensor factors) {
            Tensor rows = left.mul(factors.reshape(-1, 1, 1)).flatten(0, 1); // [n T, p]
            return rows.t().matmul(right.flatten(0, 1));
        }
    }

    /**
     * The gradients of a batch's samples, never written out.
     *
     * @param loss of the batch, a sum
     * @param weights what makes a sample's own loss of its part of the sum
     */
    @SuppressWarnings("ArrayRecordComponent") // handed from one method to the next, never compared
    record Taken(double loss, List<Outer> outers, double[] weights) {

        /** The length of each sample's gradient over everything that trains. */
        double[] norms() {
            double[] squares = new double[weights.length];
            try (Grad off = Grad.off()) {
                for (Outer outer : outers) {
                    double[] more = outer.squaredNorms().doubles();
                    Arrays.setAll(squares, i -> squares[i] + more[i]);
                }
            }
            Arrays.setAll(squares, i -> weights[i] * Math.sqrt(Math.max(0, squares[i])));
            return squares;
        }

        /** Adds Σ_i g_i min(1, bound / (‖g_i‖ + 1e-6)) to the sums. */
        void addClipped(double bound, Map<Parameter, Tensor> sums) {
            double[] norms = norms();
            double[] factors = new double[norms.length];
            Arrays.setAll(factors, i -> weights[i] * Math.min(1, bound / (norms[i] + 1e-6)));
            try (Grad off = Grad.off()) {
                for (Outer outer : outers) {
                    Tensor f = Tensor.of(factors, factors.length)
                            .to(outer.left.dtype())
                            .to(outer.left.device());
                    Objects.requireNonNull(sums.get(outer.parameter)).add_(outer.weighted(f));
                }
            }
        }
    }
}
