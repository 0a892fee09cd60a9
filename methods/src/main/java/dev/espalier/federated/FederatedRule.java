package dev.espalier.federated;

import dev.espalier.adapter.AdapterType.Made;
import dev.espalier.adapter.Attached;
import dev.espalier.adapter.LowRank;
import dev.espalier.adapter.Part;
import dev.espalier.adapter.Site;
import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/**
 * A federated method: what clients train, how the server aggregates, what it does after a round. All else is {@link
 * Federation}'s.
 *
 * @param <C> its own settings, beside {@link Federation.Config}
 */
public interface FederatedRule<C> extends Part<C, FederatedRule.Server> {

    /** The method at work on one adapter. */
    interface Server {

        /** What clients train and send back, by key; all else stays as it starts. */
        Map<String, Parameter> trained();

        /**
         * Turns what came back into new values of {@link #trained}, which hold those of the round's start: by default the
         * weighted mean of each tensor.
         */
        default void aggregate(List<Upload> uploads) {
            try (Grad off = Grad.off()) {
                trained().forEach((key, p) -> {
                    try (Scope scope = Scope.open()) {
                        Tensor before = p.tensor().clone();
                        uploads.forEach(u -> p.tensor()
                                .add_(
                                        Objects.requireNonNull(u.values().get(key))
                                                .sub(before),
                                        u.weight()));
                    }
                });
            }
        }

        /**
         * What the server does before the next round.
         *
         * @param round that has ended, counted from 1
         */
        default void afterRound(int round) {}
    }

    /**
     * What a client sends back.
     *
     * @param client counted from 0
     * @param weight its share of the drawn clients' examples
     * @param values of what it trained, by key
     */
    record Upload(int client, double weight, Map<String, Tensor> values) {}

    @Override
    default String verb() {
        return "federate";
    }

    /** Its settings, and the loop's. */
    @Override
    default List<Fields.Field> fields() {
        return Fields.askedBy(f -> {
            read(f);
            Federation.Config.read(f);
        });
    }

    @Override
    default Map<String, String> meanings() {
        return Federation.Config.MEANINGS;
    }

    /**
     * Factors of a LoRA, by key, in the network's order.
     *
     * @param withA whether A too, or B alone
     */
    static Map<String, Parameter> factors(Attached adapter, boolean withA) {
        Map<String, Parameter> found = new LinkedHashMap<>();
        for (Site site : adapter.sites()) {
            LowRank lowRank = adapter.lowRank(site.path());
            lowRank.parameters().forEach((leaf, p) -> {
                if (p == lowRank.b() || (withA && p == lowRank.a())) {
                    found.put(Made.key(site.path(), leaf), p);
                }
            });
        }
        return found;
    }
}
