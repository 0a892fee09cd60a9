package dev.espalier.model;

import static dev.espalier.Check.check;

import dev.espalier.nn.Linear;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.util.List;
import java.util.stream.IntStream;
import java.util.stream.LongStream;

/**
 * What is inside a block alone: units that can be left out without anything outside the block noticing, the inner channels of
 * an MLP or the heads of an attention. A block that keeps some of its units is a smaller block of the same kind.
 *
 * @param path the module's that holds them: {@code model.layers.4.mlp}
 * @param units how many there are: channels, or key heads
 * @param shared whether a unit is a key head that several query heads share, which go with it
 * @param parts the layers that hold the units' weights
 */
public record Inner(String path, int units, boolean shared, List<Part> parts) {

    /** Copies. */
    public Inner {
        parts = List.copyOf(parts);
    }

    /**
     * A layer whose outputs or inputs are the units' channels, in the order of the units.
     *
     * @param outputs whether these are its outputs, rows of W [out, in]; else its inputs, columns
     * @param width channels of a unit
     */
    public record Part(Linear layer, boolean outputs, int width) {

        static Part outputs(Linear layer, int width) {
            return new Part(layer, true, width);
        }

        static Part inputs(Linear layer, int width) {
            return new Part(layer, false, width);
        }
    }

    /**
     * The channels of units: for 0 and 2 of width 3 these are 0, 1, 2, 6, 7, 8.
     *
     * @return int64 [units · width]
     */
    public static Tensor channels(List<Integer> units, int width) {
        return Tensor.of(units.stream()
                .flatMapToLong(unit -> LongStream.range((long) unit * width, (unit + 1L) * width))
                .toArray());
    }

    /**
     * Leaves out all units but these, whose order stays.
     *
     * @param kept rising, at least one
     */
    public void keep(List<Integer> kept) {
        check(
                !kept.isEmpty()
                        && kept.get(0) >= 0
                        && kept.get(kept.size() - 1) < units
                        && IntStream.range(1, kept.size()).allMatch(i -> kept.get(i - 1) < kept.get(i)),
                "of %s, units 0 to %d, there are to be kept %s; name at least one, each once, in rising order",
                path,
                units - 1,
                kept);
        for (Part part : parts) {
            try (Scope scope = Scope.open()) {
                Tensor channels = channels(kept, part.width)
                        .to(part.layer.weightParameter().tensor().device());
                part.layer.keep(part.outputs ? channels : null, part.outputs ? null : channels);
            }
        }
    }
}
