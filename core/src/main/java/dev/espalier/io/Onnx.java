package dev.espalier.io;

import static dev.espalier.Check.check;
import static dev.espalier.io.Faults.shown;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;

/**
 * The weights (initialisers) of an ONNX model, and its nodes as far as they tell which weight belongs to which module.
 *
 * <p>Source: onnx.proto of onnx/onnx; the numbers beside the fields below are those of its messages. The graph is not run.
 *
 * <p>PyTorch's exporter folds the transpose of a linear layer's weight into the file and so loses its name:
 * {@code encoder.layer.0.output.dense.weight} becomes {@code onnx::MatMul_799}, transposed. {@link #parameters} undoes this.
 */
public final class Onnx implements TensorSource {

    /**
     * One operation of the graph.
     *
     * @param name such as {@code /encoder/layer.0/output/dense/MatMul}
     * @param operation such as {@code MatMul}
     * @param inputs names of values and initialisers, "" for one left out
     * @param outputs names of values
     * @param integers its integer attributes, such as {@code transB}
     */
    public record Node(
            String name, String operation, List<String> inputs, List<String> outputs, Map<String, Long> integers) {}

    private record Entry(TensorInfo info, Stored stored, ByteBuffer data) {}

    private final String where;
    private final Map<String, Entry> entries = new LinkedHashMap<>();
    private final Map<String, TensorInfo> tensors = new LinkedHashMap<>();
    private final List<Node> nodes = new ArrayList<>();
    private final Map<String, String> metadata = new TreeMap<>();

    private Onnx(String where, ByteBuffer bytes) {
        this.where = where;
        boolean graph = false;
        ProtoReader model = new ProtoReader(where, bytes);
        for (int field = model.next(); field != 0; field = model.next()) {
            switch (field) {
                case 2 -> metadata.put("producer_name", model.text());
                case 3 -> metadata.put("producer_version", model.text());
                case 7 -> {
                    graph = true;
                    readGraph(model.message());
                }
                case 14 -> readProperty(model.message());
                default -> model.skip();
            }
        }
        check(graph, "%s is not an ONNX model: it holds no graph; check the path", where);
    }

    /**
     * Opens a model file, which is read in place (mapped).
     *
     * @throws EspalierException if it is no ONNX model, or keeps its weights in another file
     */
    public static Onnx open(Path file) {
        try (FileBytes bytes = FileBytes.open(file)) {
            check(
                    bytes.size() > 0 && bytes.size() <= Integer.MAX_VALUE,
                    "%s holds %d bytes; an ONNX model holds 1 byte to 2 GiB",
                    file,
                    bytes.size());
        }
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            return new Onnx(file.toString(), channel.map(MapMode.READ_ONLY, 0, channel.size()));
        } catch (IOException e) {
            throw Faults.reading(file, e);
        }
    }

    /**
     * Opens a model in memory, for example a resource of a jar. The bytes are not copied.
     *
     * @param where what it is, for messages
     */
    public static Onnx open(String where, byte[] model) {
        return new Onnx(where, ByteBuffer.wrap(model));
    }

    /** All nodes in the graph's order. */
    public List<Node> nodes() {
        return Collections.unmodifiableList(nodes);
    }

    @Override
    public String where() {
        return where;
    }

    @Override
    public Map<String, TensorInfo> tensors() {
        return Collections.unmodifiableMap(tensors);
    }

    @Override
    public Map<String, String> metadata() {
        return Collections.unmodifiableMap(metadata);
    }

    @Override
    public Tensor read(String name) {
        info(name); // names the nearest if there is none
        Entry entry = Objects.requireNonNull(entries.get(name));
        return entry.stored.load(
                (position, into) -> into.put(entry.data.slice((int) position, into.remaining())), 0, entry.info.dims());
    }

    /** Nothing to free: memory is the garbage collector's. */
    @Override
    public void close() {}

    /**
     * The same weights under their PyTorch names and shapes: each initialiser without a module's name that a node
     * {@code /a/b/MatMul} or {@code /a/b/Gemm} multiplies by becomes {@code a.b.weight}, transposed to [out, in] where the file
     * has [in, out].
     *
     * @throws EspalierException if two weights would get one name
     */
    public TensorSource parameters() {
        return OnnxParameters.of(this);
    }

    private void readGraph(ProtoReader graph) {
        for (int field = graph.next(); field != 0; field = graph.next()) {
            switch (field) {
                case 1 -> nodes.add(readNode(graph.message()));
                case 5 -> {
                    Entry entry = readTensor(graph.message());
                    String name = entry.info.name();
                    check(entries.put(name, entry) == null, "%s holds the initialiser %s twice", where, shown(name));
                    tensors.put(name, entry.info);
                }
                case 15 ->
                    throw new EspalierException(where
                            + " holds sparse initialisers, which cannot be read; export the model with dense weights");
                default -> graph.skip();
            }
        }
    }

    private void readProperty(ProtoReader property) {
        String key = "";
        String value = "";
        for (int field = property.next(); field != 0; field = property.next()) {
            switch (field) {
                case 1 -> key = property.text();
                case 2 -> value = property.text();
                default -> property.skip();
            }
        }
        metadata.put(key, value);
    }

    private static Node readNode(ProtoReader node) {
        String name = "";
        String operation = "";
        List<String> inputs = new ArrayList<>();
        List<String> outputs = new ArrayList<>();
        Map<String, Long> integers = new TreeMap<>();
        for (int field = node.next(); field != 0; field = node.next()) {
            switch (field) {
                case 1 -> inputs.add(node.text());
                case 2 -> outputs.add(node.text());
                case 3 -> name = node.text();
                case 4 -> operation = node.text();
                case 5 -> readAttribute(node.message(), integers);
                default -> node.skip();
            }
        }
        return new Node(
                name, operation, List.copyOf(inputs), List.copyOf(outputs), Collections.unmodifiableMap(integers));
    }

    private static void readAttribute(ProtoReader attribute, Map<String, Long> integers) {
        String name = "";
        Long value = null;
        for (int field = attribute.next(); field != 0; field = attribute.next()) {
            switch (field) {
                case 1 -> name = attribute.text();
                case 3 -> value = attribute.integer();
                default -> attribute.skip();
            }
        }
        if (value != null) {
            integers.put(name, value);
        }
    }

    /** TensorProto. Values lie in raw_data, or in the field of their kind. */
    private Entry readTensor(ProtoReader tensor) {
        List<Long> shape = new ArrayList<>();
        long type = 0;
        String name = "";
        ByteBuffer raw = null;
        OnnxValues values = new OnnxValues(where);
        for (int field = tensor.next(); field != 0; field = tensor.next()) {
            switch (field) {
                case 1 -> readDims(tensor, shape);
                case 2 -> type = tensor.integer();
                case 4, 5, 7, 10, 11 -> values.add(field, tensor);
                case 8 -> name = tensor.text();
                case 9 -> raw = tensor.bytes();
                case 14 ->
                    check(
                            tensor.integer() == 0,
                            "%s keeps weights in another file beside it, which is not read; save the model as one file",
                            where);
                default -> tensor.skip();
            }
        }
        String what = where + ": initialiser " + shown(name);
        Stored stored = stored(what, type);
        long bytes = Stored.bytes(what, shape, stored.bytes());
        ByteBuffer data = raw != null ? raw : values.toBytes(what, stored, bytes);
        check(
                data.remaining() == bytes,
                "%s of shape %s and type %s needs %d bytes, found %d",
                what,
                shape,
                stored,
                bytes,
                data.remaining());
        return new Entry(new TensorInfo(name, stored.dtype(), stored.name(), shape, bytes), stored, data);
    }

    private void readDims(ProtoReader tensor, List<Long> shape) {
        if (tensor.wireType() == ProtoReader.VARINT) {
            shape.add(tensor.integer());
        } else {
            ProtoReader packed = tensor.message();
            while (packed.hasMore()) {
                shape.add(packed.varint());
            }
        }
        check(shape.size() <= 64, "%s holds an initialiser of more than 64 dimensions", where);
    }

    private static Stored stored(String what, long type) {
        Stored stored = switch ((int) type) {
            case 1 -> Stored.F32;
            case 2 -> Stored.U8;
            case 3 -> Stored.I8;
            case 4 -> Stored.U16;
            case 5 -> Stored.I16;
            case 6 -> Stored.I32;
            case 7 -> Stored.I64;
            case 9 -> Stored.BOOL;
            case 10 -> Stored.F16;
            case 11 -> Stored.F64;
            case 12 -> Stored.U32;
            case 16 -> Stored.BF16;
            default -> null;
        };
        if (stored == null) {
            throw new EspalierException(
                    "%s has the element type %d, which cannot be read; export the model with float weights"
                            .formatted(what, type));
        }
        return stored;
    }
}
