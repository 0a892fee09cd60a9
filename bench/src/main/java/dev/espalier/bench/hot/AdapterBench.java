package dev.espalier.bench.hot;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.io.Fields;
import dev.espalier.nn.Linear;
import dev.espalier.nn.Module;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.Map;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.TearDown;

/** A linear layer [1536, 576] on 1024 tokens: as it is, and under adapters. The gradient goes to what trains and to the input. */
public class AdapterBench extends Hot {

    private static final int TOKENS = 1024;
    private static final int IN = 576;
    private static final int OUT = 1536;

    /** A network of one layer. */
    private static final class One extends Module {
        private final Linear linear = child("linear", new Linear(IN, OUT, false, DType.FLOAT32));
    }

    /** Catalogue name of the adapter; {@code plain} for none. */
    @Param({"plain", "lora", "dora", "vera", "randlora", "oft", "bone"})
    public String adapter = "";

    private final One network = new One();
    private final AdaptedModel adapted = new AdaptedModel(network, List.of());
    private final Tensor input;
    private final Tensor gradient;

    /** Draws weight, input and the output's gradient. */
    public AdapterBench() {
        try (Scope scope = Scope.open();
                Generator generator = Generator.of(0)) {
            network.linear.reset(generator, 0.02);
            input = generator.randn(TOKENS, IN).requiresGrad_(true).keep();
            gradient = generator.randn(TOKENS, OUT).keep();
        }
    }

    /** Attaches the adapter with its defaults. */
    @Setup(Level.Trial)
    public void attach() {
        if (!adapter.equals("plain")) {
            AdapterSpec<?> spec = AdapterSpec.read(Fields.of("the benchmark", Map.of("type", adapter)));
            adapted.attach("default", spec, new Seed(0));
            network.train(true);
        }
    }

    /** Frees all. */
    @TearDown(Level.Trial)
    public void close() {
        adapted.close();
        network.close();
        input.close();
        gradient.close();
    }

    /** Without gradients. */
    @Benchmark
    public void forward() {
        try (Grad off = Grad.off();
                Scope scope = Scope.open()) {
            network.linear.forward(input);
        }
    }

    /** With them. */
    @Benchmark
    public void forwardBackward() {
        try (Scope scope = Scope.open()) {
            network.linear.forward(input).backward(gradient);
        }
    }
}
