package dev.espalier.bench.hot;

import dev.espalier.bench.Folders;
import dev.espalier.bench.RandomModel;
import dev.espalier.io.Safetensors;
import dev.espalier.io.TensorSource;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Path;
import java.util.function.BiFunction;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.TearDown;

/** A file of 39 million float32 numbers, twelve tensors, in the system's cache: opened, and a number of each tensor looked at. */
public class SafetensorsBench extends Hot {

    private final Path folder;

    /** Writes the file. */
    public SafetensorsBench() {
        folder = Folders.temporary("safetensors");
        RandomModel.write(folder, 3);
    }

    /** Removes it. */
    @TearDown(Level.Trial)
    public void close() throws IOException {
        Folders.delete(folder);
    }

    /** Copied into memory of its own. */
    @Benchmark
    public double read() {
        return each(TensorSource::read);
    }

    /** Left in the file, as a model's weights are. */
    @Benchmark
    public double map() {
        return each(TensorSource::map);
    }

    private double each(BiFunction<TensorSource, String, Tensor> open) {
        double sum = 0;
        try (TensorSource source = Safetensors.open(folder)) {
            for (String name : source.tensors().keySet()) {
                try (Scope scope = Scope.open()) {
                    sum += open.apply(source, name)
                            .flatten(0, -1)
                            .narrow(0, 0, 1)
                            .item();
                }
            }
        }
        return sum;
    }
}
