package dev.espalier.optim;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import dev.espalier.train.Optimizer;
import dev.espalier.train.ParameterGroup;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Parameters with given gradients, to be moved by an optimiser. */
final class Steps {

    final Map<String, Parameter> parameters = new LinkedHashMap<>();

    /** Adds a parameter with noise of N(0, 1). */
    Steps noise(String name, DType dtype, Generator generator, long... shape) {
        return with(name, generator.randn(shape).to(dtype));
    }

    Steps with(String name, Tensor value) {
        Parameter p = new Parameter(value.clone());
        p.trainable(true);
        parameters.put(name, p);
        return this;
    }

    Tensor value(String name) {
        return parameters.get(name).tensor().detach();
    }

    List<ParameterGroup> groups(double decay) {
        return List.of(new ParameterGroup("all", parameters, 1, decay));
    }

    /** Makes G the gradient of a parameter: that of the sum of its elements times G. */
    void gradient(String name, Tensor g) {
        Tensor value = parameters.get(name).tensor();
        value.clearGrad();
        value.mul(g.to(value.dtype())).sum().backward();
    }

    /** Gives every parameter a gradient of noise. */
    void noiseGradients(Generator generator) {
        parameters.forEach((name, p) -> gradient(name, generator.randn(p.shape())));
    }

    /** The same values, state not included. */
    Steps copy() {
        Steps copy = new Steps();
        parameters.forEach((name, p) -> copy.with(name, p.tensor().detach()));
        return copy;
    }

    /** What another implementation came to, step by step. */
    static void followsTheAuthors(String file, Optimizer.Config config, double rate, double decay, double tolerance) {
        try (Scope scope = Scope.open();
                TensorSource golden =
                        Safetensors.open(Path.of("src/test/resources/golden/optim/" + file + ".safetensors"))) {
            Steps steps = new Steps();
            golden.tensors().keySet().stream()
                    .filter(key -> key.startsWith("start."))
                    .forEach(key -> steps.with(key.substring("start.".length()), golden.read(key)));
            try (Optimizer optimizer = config.create(steps.groups(decay))) {
                for (int step = 1; golden.tensors().keySet().stream().anyMatch(startsWith("after." + step)); step++) {
                    for (String name : steps.parameters.keySet()) {
                        steps.gradient(name, golden.read("gradient.%d.%s".formatted(step, name)));
                    }
                    optimizer.step(rate);
                    for (String name : steps.parameters.keySet()) {
                        assertThat(gap(steps.value(name), golden.read("after.%d.%s".formatted(step, name))))
                                .as("%s after step %d", name, step)
                                .isLessThan(tolerance);
                    }
                }
            }
        }
    }

    private static java.util.function.Predicate<String> startsWith(String prefix) {
        return key -> key.startsWith(prefix + ".");
    }

    /** Holds an optimiser to its declaration, and a resumed one to the same bits. */
    static void declaresItsStateAndResumes(Steps start, Optimizer.Config config) {
        declaresItsStateAndResumes(start, config, 0);
    }

    /** The same for one that also holds bytes which need not be saved. */
    static void declaresItsStateAndResumes(Steps start, Optimizer.Config config, long unsaved) {
        try (Scope scope = Scope.open();
                Generator generator = Generator.of(21)) {
            Steps resumed = start.copy();
            try (Optimizer one = config.create(start.groups(0.1))) {
                for (int i = 0; i < 4; i++) {
                    start.noiseGradients(generator);
                    one.step(0.01);
                    assertThat(one.stateBytes()).isEqualTo(config.stateBytes(start.groups(0.1)));
                }
                long held = one.state().entrySet().stream()
                        .filter(e -> !e.getKey().startsWith("step."))
                        .mapToLong(e -> e.getValue().bytes())
                        .sum();
                assertThat(held + unsaved).isEqualTo(one.stateBytes());
                try (Optimizer two = config.create(resumed.groups(0.1))) {
                    try (Grad off = Grad.off()) {
                        resumed.parameters.forEach((name, p) -> p.tensor().copy_(start.value(name)));
                    }
                    two.load(one.state());
                    for (int i = 0; i < 3; i++) {
                        start.noiseGradients(generator);
                        start.parameters.forEach(
                                (name, p) -> resumed.gradient(name, p.tensor().grad()));
                        one.step(0.01);
                        two.step(0.01);
                    }
                    start.parameters.forEach(
                            (name, p) -> assertThat(resumed.value(name).equal(p.tensor()))
                                    .as(name)
                                    .isTrue());
                }
            }
        }
    }

    static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }
}
