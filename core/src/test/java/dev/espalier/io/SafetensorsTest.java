package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SafetensorsTest {

    private static final double[] COUNT = {0, 1, 2, 3, 4, 5};

    @TempDir
    Path folder;

    private final Scope scope = Scope.open();

    @AfterEach
    void closeScope() {
        scope.close();
    }

    @ParameterizedTest
    @CsvSource({
        "f64,FLOAT64,F64",
        "f32,FLOAT32,F32",
        "f16,FLOAT16,F16",
        "bf16,BFLOAT16,BF16",
        "i64,INT64,I64",
        "i32,INT32,I32",
        "i16,INT16,I16",
        "i8,INT32,I8",
        "u8,UINT8,U8",
        "u16,INT32,U16",
        "u32,INT64,U32"
    })
    void readsEveryTypeOfTheReferenceImplementation(String name, DType dtype, String stored) {
        try (TensorSource source = Safetensors.open(Golden.path("safetensors/types.safetensors"))) {
            TensorInfo info = source.info(name);
            assertThat(info.dtype()).isEqualTo(dtype);
            assertThat(info.storedType()).isEqualTo(stored);
            assertThat(info.shape()).containsExactly(2L, 3L);
            for (Tensor tensor : List.of(source.read(name), source.map(name))) {
                assertThat(tensor.dtype()).isEqualTo(dtype);
                assertThat(tensor.shape()).containsExactly(2, 3);
                assertThat(tensor.doubles()).containsExactly(COUNT);
            }
        }
    }

    @Test
    void readsBooleansScalarsEmptyTensorsAndMetadata() {
        try (TensorSource source = Safetensors.open(Golden.path("safetensors/types.safetensors"))) {
            assertThat(source.read("bool").dtype()).isEqualTo(DType.BOOL);
            assertThat(source.read("bool").longs()).containsExactly(0, 1, 0);
            assertThat(source.read("scalar").shape()).isEmpty();
            assertThat(source.read("scalar").item()).isZero();
            assertThat(source.read("empty").shape()).containsExactly(0, 4);
            assertThat(source.map("empty").shape()).containsExactly(0, 4);
            assertThat(source.metadata()).isEqualTo(Map.of("format", "pt", "note", "Grüße"));
            assertThat(source.tensors()).hasSize(14);
        }
    }

    @Test
    void eightBitFloatsAreRefusedWithASentence() {
        refused(Golden.path("safetensors/f8.safetensors"))
                .hasMessageContaining("tensor f8 has the type F8_E4M3, which cannot be read; known here: [F64, F32,");
    }

    @Test
    void readsShardsThroughTheirIndexOrTheirFolder() {
        Path shards = Golden.path("safetensors/sharded");
        for (Path path : List.of(shards, shards.resolve("model.safetensors.index.json"))) {
            try (TensorSource source = Safetensors.open(path)) {
                assertThat(source.tensors()).containsOnlyKeys("a.weight", "a.bias", "b.weight");
                assertThat(source.read("a.weight").floats()).containsExactly(0, 1, 2, 3);
                assertThat(source.map("b.weight").shape()).containsExactly(3, 2);
                assertThat(source.metadata()).containsEntry("total_size", "48");
            }
        }
    }

    @Test
    void unknownNameNamesTheNearest() {
        try (TensorSource source = Safetensors.open(Golden.path("safetensors/sharded"))) {
            assertThatThrownBy(() -> source.read("a.wieght"))
                    .isExactlyInstanceOf(EspalierException.class)
                    .hasMessageEndingWith("holds no tensor a.wieght among its 3; did you mean a.weight?");
        }
    }

    @Test
    void roundTripKeepsNamesTypesShapesBitsAndMetadata() throws IOException {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        try (TensorSource source = Safetensors.open(Golden.path("safetensors/types.safetensors"))) {
            for (String name : source.tensors().keySet()) {
                tensors.put(name, source.read(name));
            }
        }
        tensors.put(
                "transposed", Tensor.of(new float[] {1, 2, 3, 4, 5, 6}, 2, 3).t());
        tensors.put("trained", Tensor.of(new float[] {1, Float.NaN}, 2).requiresGrad_(true));
        Path file = folder.resolve("out.safetensors");
        Safetensors.write(file, tensors, Map.of("note", "kept"));
        try (TensorSource source = Safetensors.open(file)) {
            assertThat(source.tensors().keySet()).isEqualTo(tensors.keySet());
            assertThat(source.metadata()).isEqualTo(Map.of("format", "pt", "note", "kept"));
            tensors.forEach((name, expected) -> {
                Tensor actual = source.read(name);
                assertThat(actual.dtype()).isEqualTo(expected.dtype());
                assertThat(actual.shape()).isEqualTo(expected.shape());
                assertThat(actual.doubles()).as(name).isEqualTo(expected.doubles());
            });
        }
        long header = ByteBuffer.wrap(Files.readAllBytes(file))
                .order(ByteOrder.LITTLE_ENDIAN)
                .getLong();
        assertThat(header % 8).isZero();
        try (Stream<Path> left = Files.list(folder)) {
            assertThat(left).containsExactly(file);
        }
    }

    @Test
    void writesTheReferenceImplementationsBytes() throws IOException {
        // The shard was written by safetensors.torch.save_file: same order, spacing and padding.
        Path written = folder.resolve("model.safetensors");
        Safetensors.write(
                written,
                Map.of("a.weight", Tensor.of(new float[] {0, 1, 2, 3}, 4), "a.bias", Tensor.of(new float[] {0, 1}, 2)));
        assertThat(Files.readAllBytes(written))
                .isEqualTo(Golden.bytes("safetensors/sharded/model-00001-of-00002.safetensors"));
    }

    @Test
    void aFileThatComesBackChangedIsRefused() throws IOException {
        Path file = folder.resolve("w.safetensors");
        Map<String, Tensor> tensors = Map.of("w", Tensor.of(new float[] {1, 2}, 2));
        Safetensors.write(file, tensors);
        assertThatThrownBy(() -> SafetensorsWriter.verify(file, file, tensors, Map.of("w", 0L)))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith(file + " was not written: tensor w came back changed");
        assertThatThrownBy(() -> SafetensorsWriter.verify(file, file, Map.of(), Map.of()))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith(file + " was not written: it came back with other tensors than were given");
    }

    @Test
    void theNameOfTheMetadataIsNoTensorName() {
        assertThatThrownBy(() -> Safetensors.write(
                        folder.resolve("w.safetensors"), Map.of("__metadata__", Tensor.ones(DType.FLOAT32, 1))))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage("No tensor can be called __metadata__ in a safetensors file");
    }

    @Test
    void nothingToWriteIsAnError() {
        Path file = folder.resolve("empty.safetensors");
        assertThatThrownBy(() -> Safetensors.write(file, Map.of()))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage("There are no tensors to write to " + file
                        + "; a file without weights would look like success");
        assertThat(file).doesNotExist();
    }

    @Test
    void tensorsAndFilesAboveTwoGibibytesAreRead() throws IOException {
        // A sparse file: 2 GiB and a little of U8 zeros that take no room on disk, with a known tail.
        long big = (2L << 30) + 8;
        Path file = folder.resolve("big.safetensors");
        String json = "{\"big\":{\"dtype\":\"U8\",\"shape\":[" + big + "],\"data_offsets\":[0," + big + "]},"
                + "\"tail\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" + big + "," + (big + 8) + "]}}";
        byte[] header = json.getBytes(StandardCharsets.UTF_8);
        try (FileChannel channel = FileChannel.open(
                file, StandardOpenOption.CREATE_NEW, StandardOpenOption.SPARSE, StandardOpenOption.WRITE)) {
            ByteBuffer prefix = ByteBuffer.allocate(8 + header.length).order(ByteOrder.LITTLE_ENDIAN);
            channel.write(prefix.putLong(header.length).put(header).flip());
            ByteBuffer tail = ByteBuffer.allocate(9).order(ByteOrder.LITTLE_ENDIAN);
            tail.put((byte) 77).putFloat(1.5f).putFloat(-2).flip();
            channel.write(tail, 8 + header.length + big - 1);
        }
        try (TensorSource source = Safetensors.open(file)) {
            assertThat(source.read("tail").floats()).containsExactly(1.5f, -2);
            assertThat(source.map("tail").floats()).containsExactly(1.5f, -2);
            assertThat(source.info("big").numel()).isEqualTo(big);
            try (Tensor tensor = source.read("big")) {
                ByteBuffer last = ByteBuffer.allocate(2);
                tensor.read(big - 2, last);
                assertThat(last.array()).containsExactly(0, 77);
            }
        }
    }

    @Test
    void mappedTensorsAreCopiesOnWrite() throws IOException {
        Path file = folder.resolve("m.safetensors");
        Safetensors.write(file, Map.of("w", Tensor.of(new float[] {1, 2}, 2)));
        byte[] before = Files.readAllBytes(file);
        try (TensorSource source = Safetensors.open(file)) {
            Tensor mapped = source.map("w");
            mapped.add_(Tensor.of(new float[] {1, 1}, 2));
            assertThat(mapped.floats()).containsExactly(2, 3);
            assertThat(source.read("w").floats()).containsExactly(1, 2);
        }
        assertThat(Files.readAllBytes(file)).isEqualTo(before);
    }

    @Test
    void booleansOtherThanZeroAndOneBecomeOne() throws IOException {
        Path file = raw("{\"b\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}", new byte[] {0, 1, 7});
        try (TensorSource source = Safetensors.open(file)) {
            assertThat(source.read("b").longs()).containsExactly(0, 1, 1);
        }
    }

    @Test
    void everyWayAHeaderCanLieIsNamed() throws IOException {
        header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"a\":{}}")
                .hasMessageContaining("Duplicate Object property \"a\"");
        header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,16]}}")
                .hasMessageContaining("tensor a should end at byte 16 of the data, but only 8 follow the header");
        header("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}")
                .hasMessageContaining(
                        "tensor a of shape [3] and type F32 needs 12 bytes, its data_offsets [0, 8] give 8");
        header("{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}")
                .hasMessageContaining("tensor a has a negative dimension in its shape [-2]");
        header("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}")
                .hasMessageContaining("more than any file can hold");
        header("{\"a\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,0]}}")
                .hasMessageContaining("data_offsets [8, 0], which do not rise from 0");
        header("{\"a\":{\"dtype\":\"U8\",\"shape\":[6],\"data_offsets\":[0,6]},"
                        + "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}")
                .hasMessageContaining("tensor b starts at byte 4 of the data, inside the one before it");
        header("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                        + "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}")
                .hasMessageContaining("nothing describes the 2 bytes before tensor b");
        header("{\"a\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[0,7]}}")
                .hasMessageContaining("holds 1 bytes after its last tensor that nothing describes");
        header("{\"a\":{\"dtype\":\"U8\",\"shape\":[8.5],\"data_offsets\":[0,8]}}")
                .hasMessageContaining("a.shape should be an integer, found 8.5");
        header("{\"a\":{\"shape\":[8],\"data_offsets\":[0,8]}}")
                .hasMessageContaining("a.dtype is missing; it takes text");
        header("{\"a\":7}").hasMessageContaining("a should be a map, found 7");
        header("{\"__metadata__\":{\"a\":1}}").hasMessageContaining("__metadata__ should be text, found 1");
        header("[]").hasMessageContaining("its header does not start with {");
        header("{\"a\":").hasMessageContaining("is not valid JSON");
        header("{\"a\":{\"dtype\":\"U8\",\"shape\":[" + "1,".repeat(70) + "8],\"data_offsets\":[0,8]}}")
                .hasMessageContaining("has 71 dimensions, more than 64");
    }

    @Test
    void aHeaderLengthIsCheckedBeforeItIsBelieved() throws IOException {
        Path file = folder.resolve("long.safetensors");
        Files.write(file, new byte[] {0, 0, 0, 5, 0, 0, 0, 0, '{', '}'});
        refused(file).hasMessageContaining("is cut off: its header should take 83886080 bytes, the file holds 10");
        Files.write(file, new byte[] {-1, -1, -1, -1, -1, -1, -1, -1, '{', '}'});
        refused(file).hasMessageContaining("claims a header of 18446744073709551615 bytes");
        Files.write(file, new byte[4]);
        refused(file).hasMessageContaining("holds 4 bytes, too few for a safetensors file");
    }

    @Test
    void shardsElsewhereAreRefused() throws IOException {
        for (String shard :
                List.of("../x.safetensors", "/etc/passwd", "a\\\\b.safetensors", "C:x.safetensors", "x.bin", "")) {
            Path index = folder.resolve("model.safetensors.index.json");
            Files.writeString(index, "{\"weight_map\": {\"w\": \"" + shard + "\"}}");
            refused(index).hasMessageContaining("not the plain name of a .safetensors file beside it");
        }
    }

    @Test
    void indexAndShardsMustAgree() throws IOException {
        Path index = folder.resolve("model.safetensors.index.json");
        Safetensors.write(folder.resolve("s.safetensors"), Map.of("w", Tensor.ones(DType.FLOAT32, 2)));
        Files.writeString(index, "{\"weight_map\": {\"v\": \"s.safetensors\"}}");
        refused(index).hasMessageEndingWith("says that s.safetensors holds tensor v, which it does not");
        Safetensors.write(
                folder.resolve("s.safetensors"),
                Map.of("v", Tensor.ones(DType.FLOAT32, 2), "w", Tensor.ones(DType.FLOAT32, 2)));
        refused(index).hasMessageContaining("holds tensor w, which " + index + " does not list");
        Files.writeString(index, "{\"weight_map\": {\"v\": \"t.safetensors\"}}");
        refused(index).hasMessage(folder.resolve("t.safetensors") + " does not exist; check the path");
        Files.writeString(index, "{}");
        refused(index).hasMessageContaining("has no weight_map");
    }

    @Test
    void aFolderWithoutSafetensorsSaysWhatItHolds() throws IOException {
        refused(folder).hasMessage(folder + " holds no .safetensors file; check the path");
        Files.createFile(folder.resolve("pytorch_model.bin"));
        refused(folder).hasMessageContaining("holds its weights as a Python pickle");
        Safetensors.write(folder.resolve("a.safetensors"), Map.of("w", Tensor.ones(DType.FLOAT32, 2)));
        Safetensors.open(folder).close();
        Safetensors.write(folder.resolve("b.safetensors"), Map.of("w", Tensor.ones(DType.FLOAT32, 2)));
        refused(folder).hasMessageContaining("holds 2 safetensors files and none is called model.safetensors");
        refused(folder.resolve("none")).hasMessage(folder.resolve("none") + " does not exist; check the path");
    }

    private Path raw(String json, byte[] data) throws IOException {
        byte[] header = json.getBytes(StandardCharsets.UTF_8);
        ByteBuffer bytes = ByteBuffer.allocate(8 + header.length + data.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.putLong(header.length).put(header).put(data);
        Path file = folder.resolve("raw.safetensors");
        Files.write(file, bytes.array());
        return file;
    }

    /** The refusal of a header over eight bytes of data. */
    private AbstractThrowableAssert<?, ?> header(String json) throws IOException {
        return refused(raw(json, new byte[8]));
    }

    private static AbstractThrowableAssert<?, ?> refused(Path path) {
        return assertThatThrownBy(() -> Safetensors.open(path)).isExactlyInstanceOf(EspalierException.class);
    }
}
