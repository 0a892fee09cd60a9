package dev.espalier.adapter;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Seed;
import java.util.List;

/** Trained numbers on the layers of the table in the card of the baselines, check 1: q_proj 32 to 32, down_proj 64 to 32. */
final class CardCounts {

    private CardCounts() {}

    static <C> long of(AdapterType<C> type, C config) {
        List<Site> sites = List.of(
                new Site("model.layers.0.self_attn.q_proj", new Linear(32, 32, false, DType.FLOAT32)),
                new Site("model.layers.0.mlp.down_proj", new Linear(64, 32, false, DType.FLOAT32)));
        return type.create(config, sites, new Seed(0)).parameters().values().stream()
                .filter(p -> p.isTrainable())
                .mapToLong(p -> p.tensor().numel())
                .sum();
    }
}
