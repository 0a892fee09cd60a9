package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * What every adapter promises. A method's test implements {@link #spec} and {@link #parameters} and adds the method's own
 * numbers.
 *
 * <p>Networks here are float64 where a tolerance is 1e-9 or less and float32 elsewhere.
 */
public abstract class AdapterContract {

    /** The adapter under test, on layers of a {@link Tiny}. */
    protected abstract AdapterSpec<?> spec();

    /** What it may look at before it starts. */
    protected Calibration calibration(Tiny net) {
        return Calibration.NONE;
    }

    /** How many numbers it trains on a layer, from the paper's formula. */
    protected abstract long parameters(long out, long in);

    /** How many numbers it trains once for all layers. */
    protected long sharedParameters() {
        return 0;
    }

    /** Whether a fresh one changes nothing. */
    protected boolean startsAtZero() {
        return true;
    }

    private Scope scope;

    @BeforeEach
    void open() {
        scope = Scope.open();
    }

    @AfterEach
    void close() {
        scope.close();
    }

    @Test
    void freshAdapterChangesNothing() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        new AdaptedModel(net, net.heads()).attach("default", spec(), new Seed(1), calibration(net));
        if (startsAtZero()) {
            assertThat(gap(run(net), before)).isLessThan(2e-6);
        }
    }

    @Test
    void trainsAsManyNumbersAsTheFormulaSays() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Plan plan = model.plan(spec());
        Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
        long expected = sharedParameters();
        for (Site site : adapter.sites()) {
            expected += parameters(site.layer().outFeatures(), site.layer().inFeatures());
        }
        long trained = model.trainableParameters().values().stream()
                .mapToLong(p -> p.tensor().numel())
                .sum();
        assertThat(trained).isEqualTo(expected);
        assertThat(plan.trainableParameters()).isEqualTo(expected);
        assertThat(plan.layers().stream().filter(touched -> !touched.kind().equals("shared")))
                .hasSameSizeAs(adapter.sites());
    }

    @Test
    void onlyAdapterWeightsGetGradients() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.3);
        net.forward(Tiny.ids()).square().sum().backward();
        assertThat(model.trainableParameters()).isNotEmpty();
        model.trainableParameters()
                .forEach((key, p) -> assertThat(p.tensor().grad()).as(key).isNotNull());
        net.namedParameters()
                .forEach((path, p) -> assertThat(p.tensor().grad()).as(path).isNull());
    }

    @Test
    void gradientsStayTheSameWhenLayersAreComputedAgain() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.3);
        Map<String, Tensor> plain = gradients(model, net.forward(Tiny.ids()));
        Map<String, Tensor> again = gradients(model, net.forwardComputedAgain(Tiny.ids()));
        assertThat(again.keySet()).isEqualTo(plain.keySet());
        plain.forEach((key, g) -> assertThat(gap(again.get(key), g))
                .as(key)
                .isLessThan(1e-12 * (1 + g.abs().max().item())));
    }

    private static Map<String, Tensor> gradients(AdaptedModel model, Tensor scores) {
        scores.square().sum().backward();
        Map<String, Tensor> gradients = new LinkedHashMap<>();
        model.trainableParameters().forEach((key, p) -> {
            gradients.put(
                    key, java.util.Objects.requireNonNull(p.tensor().grad()).clone());
            p.tensor().clearGrad();
        });
        return gradients;
    }

    @Test
    void mergedEqualsUnmerged() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
        Tensor plain = run(net);
        move(adapter, 0.3);
        Tensor unmerged = run(net);
        assertThat(gap(unmerged, plain)).as("the adapter does something").isGreaterThan(1e-3);
        var changes = model.merge();
        assertThat(changes).hasSameSizeAs(adapter.sites());
        assertThat(changes).allSatisfy(change -> {
            assertThat(change.maxChange()).isPositive();
            assertThat(change.maxRounding()).isZero();
        });
        assertThat(gap(run(net), unmerged)).isLessThan(1e-9);
    }

    @Test
    void mergedEqualsUnmergedInFloat32() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.3);
        Tensor unmerged = run(net);
        model.merge();
        assertThat(gap(run(net), unmerged) / unmerged.abs().max().item()).isLessThan(1e-6);
    }

    @Test
    void unmergeRestoresEveryBit() {
        Tiny net = new Tiny(DType.FLOAT32);
        Map<String, Tensor> before = values(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.3);
        Tensor unmerged = run(net);
        model.merge();
        model.unmerge();
        assertThat(run(net).equal(unmerged)).isTrue();
        model.disable();
        before.forEach((path, value) -> assertThat(
                        net.namedParameters().get(path).tensor().equal(value))
                .as(path)
                .isTrue());
    }

    @Test
    void disabledAndRemovedLeaveTheNetworkAsItWas() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.3);
        Tensor adapted = run(net);
        model.disable();
        assertThat(run(net).equal(before)).isTrue();
        model.activate("default");
        assertThat(run(net).equal(adapted)).isTrue();
        model.remove("default");
        assertThat(run(net).equal(before)).isTrue();
    }

    @Test
    void savedAndLoadedItComputesTheSame(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1), calibration(net));
        move(adapter, 0.3);
        Tensor adapted = run(net);
        Map<String, Tensor> values = new LinkedHashMap<>();
        adapter.parameters()
                .forEach((key, p) -> values.put(key, p.tensor().detach().clone()));
        PeftFolder.save(
                model, "default", folder, PeftFolder.Info.of("tiny", null), PeftFolder.Form.PLAIN, Map.of("seed", 1));
        Set<String> trained = Set.copyOf(model.trainableParameters().keySet());
        model.remove("default");

        Attached again = PeftFolder.load(model, folder, null, true);
        assertThat(run(net).equal(adapted)).isTrue();
        assertThat(again.parameters().keySet()).isEqualTo(values.keySet());
        values.forEach(
                (key, value) -> assertThat(again.parameters().get(key).tensor().equal(value))
                        .as(key)
                        .isTrue());
        assertThat(model.trainableParameters().keySet()).isEqualTo(trained);
        assertThat(PeftFolder.receipt(folder)).containsEntry("seed", 1L);
    }

    @Test
    void evaluationHasNoRandomness() {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1), calibration(net)), 0.3);
        net.train(false);
        assertThat(run(net).equal(run(net))).isTrue();
    }

    @Test
    void sameSeedGivesTheSameStart() {
        assertThat(start(new Seed(3))).isEqualTo(start(new Seed(3)));
    }

    private Map<String, String> start(Seed seed) {
        Tiny net = new Tiny(DType.FLOAT32);
        Map<String, String> values = new LinkedHashMap<>();
        new AdaptedModel(net, net.heads())
                .attach("default", spec(), seed, calibration(net))
                .parameters()
                .forEach((key, p) ->
                        values.put(key, java.util.Arrays.toString(p.tensor().floats())));
        return values;
    }

    /** Adds noise to all that trains, as training would have moved it. */
    protected static void move(Attached adapter, double by) {
        try (Grad off = Grad.off();
                Generator generator = Generator.of(5)) {
            for (Parameter p : adapter.parameters().values()) {
                if (!p.isTrainable()) {
                    continue;
                }
                p.tensor().add_(generator.randn(p.shape()).to(p.tensor().dtype()), by);
            }
        }
    }

    protected static Tensor run(Tiny net) {
        try (Grad off = Grad.off()) {
            return net.forward(Tiny.ids());
        }
    }

    protected static double gap(Tensor a, Tensor b) {
        return a.sub(b).abs().max().item();
    }

    protected static Map<String, Tensor> values(Tiny net) {
        Map<String, Tensor> values = new LinkedHashMap<>();
        net.namedParameters().forEach((path, p) -> values.put(path, p.tensor().clone()));
        return values;
    }
}
