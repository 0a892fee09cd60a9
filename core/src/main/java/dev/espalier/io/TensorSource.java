package dev.espalier.io;

import dev.espalier.EspalierException;
import dev.espalier.Nearest;
import dev.espalier.tensor.Tensor;
import java.util.Map;

/** Named tensors in a file or several. Opening reads and checks the headers; contents are read when asked for. */
public interface TensorSource extends AutoCloseable {

    /** Where the tensors come from, for messages: a path. */
    String where();

    /** All tensors by name, in the file's order. */
    Map<String, TensorInfo> tensors();

    /** What else the file says about itself, as text. */
    Map<String, String> metadata();

    /**
     * A copy of one tensor on the CPU, in the current scope; the source may be closed afterwards.
     *
     * @throws EspalierException if there is none of that name or the file changed since it was opened
     */
    Tensor read(String name);

    /**
     * One tensor, over the file's own pages where format and alignment allow it, else as {@link #read}.
     *
     * <p>Mapped pages cost no memory of their own until written to, and writing never reaches the file (copy on write).
     * The file must not be shortened or overwritten in place while the tensor lives: the operating system would stop the
     * process at the next access. Espalier's own writes replace files and are safe.
     */
    default Tensor map(String name) {
        return read(name);
    }

    /**
     * What the file says about one tensor.
     *
     * @throws EspalierException if there is none of that name
     */
    default TensorInfo info(String name) {
        TensorInfo info = tensors().get(name);
        if (info == null) {
            String near = Nearest.of(name, tensors().keySet());
            throw new EspalierException("%s holds no tensor %s among its %d%s"
                    .formatted(where(), name, tensors().size(), near == null ? "" : "; did you mean " + near + "?"));
        }
        return info;
    }

    @Override
    void close();
}
