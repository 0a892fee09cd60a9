package dev.espalier.init;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.adapter.AdapterContract;
import dev.espalier.adapter.AdapterSpec;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Lora;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Targets;
import dev.espalier.adapter.Tiny;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import org.junit.jupiter.api.Test;

class OloraTest extends AdapterContract {

    @Override
    protected AdapterSpec<?> spec() {
        return AdapterSpec.of(new Lora.Type(), Lora.Config.of(3, 6).withInit("olora"), Targets.of("fc", "proj"));
    }

    @Override
    protected long parameters(long out, long in) {
        return 3 * (in + out);
    }

    /** B has orthonormal columns, and B A is W on the first r columns, for R is upper triangular; GPT-2's weight transposed too. */
    @Test
    void startsOrthonormal() {
        Tiny net = new Tiny(DType.FLOAT64);
        AdaptedModel model = new AdaptedModel(net, net.heads());
        Attached adapter = model.attach("default", spec(), new Seed(1));
        try (Grad off = Grad.off()) {
            for (String path : new String[] {"layers.0.fc", "layers.0.proj"}) {
                LowRank lora = adapter.lowRank(path);
                Tensor b = lora.b().tensor();
                assertThat(gap(b.t().matmul(b), Tensor.eye(3, DType.FLOAT64))).isLessThan(1e-12);
                Tensor w = path.endsWith("fc")
                        ? net.layers.get(0).fc.weight()
                        : net.layers.get(0).proj.weight();
                assertThat(gap(b.matmul(lora.a().tensor()).narrow(1, 0, 3), w.narrow(1, 0, 3)))
                        .isLessThan(1e-12);
            }
        }
    }
}
