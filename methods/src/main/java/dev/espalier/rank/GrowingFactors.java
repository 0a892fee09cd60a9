package dev.espalier.rank;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Device;
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
 * The factors of B diag(E) A of one layer, which grow: blocks of components that are live, and perhaps one that is a reserve and
 * learns ahead with a fixed E of 1e-5.
 */
public final class GrowingFactors {

    private static final double RESERVE = 1e-5; // E of components that are not live

    /** Components that came together: A [k, in], B [out, k], E [k, 1]. */
    private record Block(Parameter a, Parameter b, Parameter e) {}

    /**
     * Components of several blocks together, with gradients.
     *
     * @param a A [R, in]
     * @param b B [out, R]
     * @param e E [R, 1]
     */
    public record Parts(Tensor a, Tensor b, Tensor e) {}

    private final Seed seed;
    private final long in;
    private final long out;
    private final DType dtype;
    private final Device device;
    private final boolean advance;
    private final List<Block> blocks = new ArrayList<>(); // the reserve, if there is one, last
    private boolean reserved;

    /**
     * Live components without a reserve: A, B from N(0, 0.02²), E zero.
     *
     * @param seed of this layer, of which each block takes streams by name
     * @param advance whether a reserve learns ahead; else its E is zero
     */
    public GrowingFactors(Seed seed, long in, long out, DType dtype, Device device, int rank, boolean advance) {
        this.seed = seed;
        this.in = in;
        this.out = out;
        this.dtype = dtype;
        this.device = device;
        this.advance = advance;
        add(rank, 0, true);
    }

    private void add(int k, double coefficient, boolean trains) {
        String number = number(blocks.size());
        try (Grad off = Grad.off();
                Scope scope = Scope.open();
                Generator forA = seed.named("lora_A" + number).generator();
                Generator forB = seed.named("lora_B" + number).generator()) {
            Block block = new Block(
                    parameter(forA.normal(0, 0.02, k, in)),
                    parameter(forB.normal(0, 0.02, out, k)),
                    parameter(Tensor.full(coefficient, DType.FLOAT32, k, 1)));
            block.a.trainable(trains);
            block.b.trainable(trains);
            block.e.trainable(trains);
            blocks.add(block);
        }
    }

    private Parameter parameter(Tensor value) {
        return new Parameter(value.to(dtype).to(device));
    }

    /** Adds a reserve of k components; one that was there goes live. */
    public void reserve(int k) {
        add(k, advance ? RESERVE : 0, false);
        reserved = true;
    }

    /**
     * No more growth: the reserve is left, and without effect.
     *
     * @param moved whether something other than the loss, such as a penalty, still moves it
     */
    public void rest(boolean moved) {
        if (reserved) {
            Block reserve = blocks.get(blocks.size() - 1);
            reserve.e.tensor().detach().zero_();
            if (!moved) {
                reserve.a.trainable(false);
                reserve.b.trainable(false);
            }
        }
    }

    private List<Block> liveBlocks() {
        return reserved ? blocks.subList(0, blocks.size() - 1) : blocks;
    }

    /** Live ranks. */
    public int rank() {
        return liveBlocks().stream()
                .mapToInt(block -> (int) block.e.tensor().numel())
                .sum();
    }

    /** All components, live or in reserve. */
    public Parts all() {
        return parts(blocks);
    }

    /** The live components. */
    public Parts live() {
        return parts(liveBlocks());
    }

    private static Parts parts(List<Block> of) {
        return new Parts(
                Tensor.cat(of.stream().map(block -> block.a.tensor()).toList(), 0),
                Tensor.cat(of.stream().map(block -> block.b.tensor()).toList(), 1),
                Tensor.cat(of.stream().map(block -> block.e.tensor()).toList(), 0));
    }

    /** All parameters by name: those of the first block are lora_A, lora_B and lora_E, then come lora_A.1 and so on. */
    public Map<String, Parameter> named() {
        Map<String, Parameter> named = new LinkedHashMap<>();
        for (int i = 0; i < blocks.size(); i++) {
            put(named, i, true, true);
        }
        return named;
    }

    /**
     * What trains from now on: the fresh reserve, if it learns ahead, and what the one before had not.
     *
     * @param released whether that one has just gone live
     */
    Map<String, Parameter> come(boolean released) {
        Map<String, Parameter> come = new LinkedHashMap<>();
        int last = blocks.size() - 1;
        if (released) {
            put(come, last - 1, !advance, true);
        }
        if (advance) {
            put(come, last, true, false);
        }
        return come;
    }

    private void put(Map<String, Parameter> into, int i, boolean factors, boolean coefficient) {
        Block block = blocks.get(i);
        if (factors) {
            into.put("lora_A" + number(i), block.a);
            into.put("lora_B" + number(i), block.b);
        }
        if (coefficient) {
            into.put("lora_E" + number(i), block.e);
        }
    }

    private static String number(int block) {
        return block == 0 ? "" : "." + block;
    }
}
