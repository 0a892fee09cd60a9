package dev.espalier.recipe;

import dev.espalier.data.Encoding;
import dev.espalier.model.Backbone;
import dev.espalier.model.Input;
import dev.espalier.model.Model;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/**
 * What a task looks like from within a network: the mean hidden state of the last block, before any final norm, where each token of
 * an answer is decided; a text without an answer counts with its last token. Longer answers weigh more.
 */
final class TaskVector {

    private TaskVector() {}

    /**
     * The vector of some samples.
     *
     * @param model as it stands, with adapters or without
     * @return [d], in the caller's scope
     */
    static Tensor of(Model model, List<Encoding> samples) {
        model.train(false);
        Backbone backbone = model.backbone();
        try (Grad off = Grad.off();
                Scope all = Scope.open()) {
            Tensor sum = null;
            long count = 0;
            for (Encoding sample : samples) {
                long[] places = places(sample);
                try (Scope scope = Scope.open()) {
                    Tensor states = states(backbone, sample); // [T, d]
                    Tensor own = states.indexSelect(
                                    0, Tensor.of(places, places.length).to(states.device()))
                            .to(DType.FLOAT64)
                            .sum(0, false);
                    sum = scope.promote(sum == null ? own : sum.add(own));
                }
                count += places.length;
            }
            return all.promote(Objects.requireNonNull(sum).div((double) count));
        }
    }

    private static Tensor states(Backbone backbone, Encoding sample) {
        long[] ids = Arrays.stream(sample.ids()).asLongStream().toArray();
        Input in = Input.of(Tensor.of(ids, 1, ids.length).to(backbone.device()));
        Backbone.Context context = backbone.context(in);
        Tensor x = backbone.embed(in);
        for (Backbone.Block block : backbone.layers()) {
            x = block.forward(x, context);
        }
        return x.select(0, 0);
    }

    /** Where the next token is part of an answer, else the last place. */
    private static long[] places(Encoding sample) {
        boolean[] supervised = sample.supervised();
        long[] places = java.util.stream.IntStream.range(0, supervised.length - 1)
                .filter(i -> supervised[i + 1])
                .asLongStream()
                .toArray();
        return places.length == 0 ? new long[] {supervised.length - 1L} : places;
    }
}
