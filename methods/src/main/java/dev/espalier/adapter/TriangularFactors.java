package dev.espalier.adapter;

import dev.espalier.adapter.TriAdaptLora.Init;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Factors with a square matrix between them, which grow by blocks: B (C_low + C_up) A, of {@link TriAdaptLora}.
 *
 * <p>C_low has a block's L_j [k_j, r_j] in the rows that came with it, C_up its U_j [r_j, k_j] in the columns; r_j = k_1 + .. + k_j.
 */
final class TriangularFactors {

    /** Components that came together: A [k, in], B [out, k], L [k, r_j], U [r_j, k]. */
    private record Block(Parameter a, Parameter b, Parameter l, Parameter u) {}

    private final Site site;
    private final Init init;
    private final Seed seed;
    private final List<Block> blocks = new ArrayList<>();

    TriangularFactors(Site site, Init init, Seed seed) {
        this.site = site;
        this.init = init;
        this.seed = seed;
    }

    /** Adds a block of k. */
    void add(int k) {
        int r = rank() + k;
        try (Grad off = Grad.off();
                Scope scope = Scope.open();
                Generator g = seed.named("block").at(blocks.size()).generator()) {
            Tensor a = g.normal(0, 0.02, k, site.layer().inFeatures());
            Tensor b = g.normal(0, 0.02, site.layer().outFeatures(), k);
            boolean first = blocks.isEmpty();
            Tensor l = switch (init) {
                case C0 -> Tensor.zeros(DType.FLOAT32, k, r);
                case UNIT -> g.normal(0, 0.02, k, r);
                case EYE -> Tensor.eye(r, DType.FLOAT32).narrow(0, 0, k);
            };
            Tensor u = switch (init) {
                case C0 -> Tensor.zeros(DType.FLOAT32, r, k);
                case UNIT -> g.normal(0, 0.02, r, k);
                case EYE -> Tensor.eye(r, DType.FLOAT32).narrow(1, 0, k);
            };
            if (init == Init.EYE || (init == Init.UNIT && first)) {
                b = b.zerosLike();
            }
            blocks.add(new Block(
                    site.trained(a), site.trained(b), site.trained(l.contiguous()), site.trained(u.contiguous())));
        }
    }

    /** How many blocks there are. */
    int blocks() {
        return blocks.size();
    }

    /** r. */
    int rank() {
        return blocks.stream().mapToInt(block -> (int) block.a.shape()[0]).sum();
    }

    /** A. */
    Tensor a() {
        return Tensor.cat(blocks.stream().map(block -> block.a.tensor()).toList(), 0); // [r, in]
    }

    /** B. */
    Tensor b() {
        return Tensor.cat(blocks.stream().map(block -> block.b.tensor()).toList(), 1); // [out, r]
    }

    /** C_low [r, r]. */
    Tensor low() {
        int r = rank();
        return Tensor.cat(
                blocks.stream()
                        .map(block -> block.l.tensor().pad(0, r - block.l.shape()[1]))
                        .toList(),
                0);
    }

    /** C_up [r, r]. */
    Tensor up() {
        int r = rank();
        return Tensor.cat(
                blocks.stream()
                        .map(block -> block.u.tensor().pad(0, 0, 0, r - block.u.shape()[0]))
                        .toList(),
                1);
    }

    /** C [r, r]. */
    Tensor c() {
        return low().add(up());
    }

    /** What came with the blocks from a number on, by name. */
    Map<String, Parameter> named(int from) {
        Map<String, Parameter> named = new LinkedHashMap<>();
        for (int i = from; i < blocks.size(); i++) {
            String number = i == 0 ? "" : "." + i;
            named.put("lora_A" + number, blocks.get(i).a);
            named.put("lora_B" + number, blocks.get(i).b);
            named.put("lora_C_low" + number, blocks.get(i).l);
            named.put("lora_C_up" + number, blocks.get(i).u);
        }
        return named;
    }
}
