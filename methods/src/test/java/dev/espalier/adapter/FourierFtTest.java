package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Generator;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** There is no card: checks like those of the baselines', and PEFT's files by {@link PeftGoldenTest}. */
class FourierFtTest extends AdapterContract {

    private static final FourierFt.Type TYPE = new FourierFt.Type();

    @Override
    protected AdapterSpec<?> spec() {
        return spec(FourierFt.Config.of(7, 20).startingAtZero());
    }

    private static AdapterSpec<?> spec(FourierFt.Config config) {
        return AdapterSpec.of(TYPE, config, Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 7;
    }

    /** As the paper and PEFT have it, unless init_weights says otherwise. */
    @Test
    void byDefaultItChangesTheLayerFromTheStart() {
        Tiny net = new Tiny(DType.FLOAT32);
        Tensor before = run(net);
        new AdaptedModel(net, net.heads()).attach("default", spec(FourierFt.Config.of(7, 20)), new Seed(1));
        assertThat(gap(run(net), before)).isGreaterThan(1e-2);
    }

    /** The sum of cosines, one by one, at the places that torch's permutation of the seed begins with. */
    @Test
    void theChangeIsTheSumOfCosines() {
        Linear layer = new Linear(4, 5, true, DType.FLOAT64);
        layer.weightParameter().tensor().zero_();
        layer.biasParameter().tensor().zero_();
        Adapter adapter = TYPE.create(FourierFt.Config.of(6, 20), List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x");
        double[] c = adapter.parameters().get("fourierft_spectrum").tensor().doubles();
        double[] found =
                ((Mergeable) adapter).merge(Base.Affine.of(layer)).weight().doubles();
        try (Generator generator = Generator.of(777)) {
            long[] order = generator.randperm(20).longs();
            for (int p = 0; p < 5; p++) {
                for (int q = 0; q < 4; q++) {
                    double sum = 0;
                    for (int t = 0; t < 6; t++) {
                        double u = order[t] / 4;
                        double v = order[t] % 4;
                        sum += c[t] * Math.cos(2 * Math.PI * (u * p / 5 + v * q / 4));
                    }
                    assertThat(found[p * 4 + q])
                            .isCloseTo(20.0 / 20 * sum, org.assertj.core.api.Assertions.within(1e-12));
                }
            }
        }
    }

    @Test
    void gradientsEqualFiniteDifferences() {
        Gradients.check(layer -> TYPE.create(FourierFt.Config.of(6, 3), List.of(new Site("x", layer)), new Seed(0))
                .adapters()
                .get("x"));
    }

    /** n a layer, whatever its size: twice 20 on the layers of the baselines' table. */
    @Test
    void theCountDoesNotDependOnTheSize() {
        assertThat(CardCounts.of(TYPE, FourierFt.Config.of(20, 150))).isEqualTo(40);
    }

    /** Whatever the run's seed, the places are those of random_loc_seed: coefficients of one run fit another. */
    @Test
    void placesComeFromTheirOwnSeed() {
        Linear layer = new Linear(6, 3, false, DType.FLOAT64);
        layer.weightParameter().tensor().zero_();
        List<Tensor> changes = new java.util.ArrayList<>();
        for (long seed = 0; seed < 2; seed++) {
            Adapter adapter = TYPE.create(FourierFt.Config.of(4, 5), List.of(new Site("x", layer)), new Seed(seed))
                    .adapters()
                    .get("x");
            adapter.parameters().get("fourierft_spectrum").tensor().detach().copy_(Tensor.arange(4));
            changes.add(((Mergeable) adapter).merge(Base.Affine.of(layer)).weight());
        }
        assertThat(changes.get(0).equal(changes.get(1))).isTrue();
    }

    @Test
    void patternsChooseTheNumber() {
        FourierFt.Config config = new FourierFt.Config(9, 1, 777, Map.of("layers.0.fc", 2, "pro.", 3), false);
        assertThat(config.at("model.layers.0.fc")).isEqualTo(2);
        assertThat(config.at("layers.1.fc")).isEqualTo(9);
        assertThat(config.at("layers.1.proj")).isEqualTo(3);
    }

    /** A change of full rank is no LoRA; the nearest one says how near it is. */
    @Test
    void exportsByTruncation(@TempDir Path folder) {
        Tiny net = new Tiny(DType.FLOAT32);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        move(model.attach("default", spec(), new Seed(1)), 0.3);
        assertThatThrownBy(() -> PeftFolder.exportLora(model, "default", folder, null, 0, Map.of()))
                .hasMessageContaining("fourierft is not exactly a LoRA");
        assertThat(PeftFolder.exportLora(model, "default", folder, null, 8, Map.of()))
                .allSatisfy(layer -> assertThat(layer.relativeError()).isLessThan(1e-5));
    }

    @Test
    void badSettingsAreRefusedWithAReason() {
        assertThatThrownBy(() -> FourierFt.Config.of(0, 1))
                .hasMessage("n_frequency must be at least 1, found 0; try 1000");
        assertThatThrownBy(() -> FourierFt.Config.of(5, 0))
                .hasMessage("scaling must be finite and not 0, found 0.0; try 150");
        assertThatThrownBy(() -> attach(FourierFt.Config.of(81, 1)))
                .hasMessage("n_frequency is 81, more than the 80 elements of layers.0.fc [10, 8]; try 80");
        assertThatThrownBy(() -> attach(new FourierFt.Config(5, 1, 0, Map.of("gate", 3), true)))
                .hasMessage(
                        "n_frequency_pattern: gate matches none of the 4 adapted modules; the first is layers.0.fc");
    }

    private static void attach(FourierFt.Config config) {
        Tiny net = new Tiny(DType.FLOAT32);
        new AdaptedModel(net, net.heads()).attach("default", spec(config), new Seed(1));
    }
}
