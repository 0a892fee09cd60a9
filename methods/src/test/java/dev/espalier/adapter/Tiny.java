package dev.espalier.adapter;

import dev.espalier.nn.Conv1D;
import dev.espalier.nn.Embedding;
import dev.espalier.nn.Layer;
import dev.espalier.nn.LayerNorm;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Recompute;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.function.UnaryOperator;

/** A small network with every kind of layer: ids [n, t] to scores [n, t, 3]. */
public final class Tiny extends Module {

    static final int ROWS = 11;
    static final int CLASSES = 3;

    public final Embedding embed;
    public final List<Block> layers = new ArrayList<>();
    public final Linear head;

    /** A block of x [.., 8]: x + proj(relu(fc(norm(x)))). */
    public static final class Block extends Module {
        public final LayerNorm norm;
        public final Linear fc; // 8 to 10
        public final Conv1D proj; // 10 to 8

        Block(DType dtype) {
            norm = child("norm", new LayerNorm(8, 1e-5, dtype));
            fc = child("fc", new Linear(8, 10, true, dtype));
            proj = child("proj", new Conv1D(10, 8, dtype));
        }

        Tensor forward(Tensor x) {
            return x.add(proj.forward(fc.forward(norm.forward(x)).relu()));
        }
    }

    /** Filled with noise from a fixed seed. */
    public Tiny(DType dtype) {
        embed = child("embed_tokens", new Embedding(ROWS, 8, dtype));
        Blocks blocks = child("layers", new Blocks());
        for (int i = 0; i < 2; i++) {
            layers.add(blocks.add(i, new Block(dtype)));
        }
        head = child("head", new Linear(8, CLASSES, true, dtype));
        try (Generator generator = Generator.of(7)) {
            namedParameters().values().forEach(p -> fill(p, generator));
        }
    }

    private static final class Blocks extends Module {
        Block add(int i, Block block) {
            return child(String.valueOf(i), block);
        }
    }

    private static void fill(Parameter p, Generator generator) {
        p.tensor().copy_(generator.normal(0, 0.5, p.shape()));
    }

    public Tensor forward(Tensor ids) {
        Tensor x = embed.forward(ids);
        for (Block block : layers) {
            x = block.forward(x);
        }
        return head.forward(x);
    }

    /** The same, with blocks that are computed again in the backward pass. */
    Tensor forwardComputedAgain(Tensor ids) {
        List<UnaryOperator<Tensor>> stages = new ArrayList<>();
        layers.forEach(block -> stages.add(block::forward));
        return head.forward(Recompute.sequential(stages, embed.forward(ids), List.of()));
    }

    public List<Layer> heads() {
        return List.of(head);
    }

    public static Tensor ids() {
        return Tensor.of(new long[] {1, 5, 2, 9, 0, 10, 3, 3}, 2, 4);
    }
}
