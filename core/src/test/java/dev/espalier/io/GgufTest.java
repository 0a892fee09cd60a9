package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.EspalierException;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Scope;
import dev.espalier.tensor.Tensor;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import org.assertj.core.api.AbstractThrowableAssert;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class GgufTest {

    private static final Path ALL = Golden.path("gguf/all_types.gguf");

    @TempDir
    Path folder;

    @ParameterizedTest
    @ValueSource(
            strings = {
                "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
                "I8", "I16", "I32"
            })
    void readsTheReferencesValuesToTheBit(String type) {
        try (Scope scope = Scope.open();
                Gguf gguf = Gguf.open(ALL);
                TensorSource expected = Safetensors.open(Golden.path("gguf/all_types.safetensors"))) {
            assertThat(gguf.info(type).storedType()).isEqualTo(type);
            Tensor actual = gguf.read(type);
            assertThat(actual.dtype()).isEqualTo(gguf.info(type).dtype());
            assertThat(actual.shape()).isEqualTo(expected.read(type).shape());
            assertThat(actual.shape()).isEqualTo(gguf.info(type).dims());
            assertThat(actual.floats()).isEqualTo(expected.read(type).floats());
        }
    }

    @Test
    void quantisedTypesAreReadAsFloat32AndPlainOnesAsTheyAre() {
        try (Gguf gguf = Gguf.open(ALL)) {
            assertThat(gguf.info("Q4_K").dtype()).isEqualTo(DType.FLOAT32);
            assertThat(gguf.info("F16").dtype()).isEqualTo(DType.FLOAT16);
            assertThat(gguf.info("BF16").dtype()).isEqualTo(DType.BFLOAT16);
        }
    }

    @Test
    void readsAllKindsOfMetadata() {
        try (Gguf gguf = Gguf.open(ALL)) {
            assertThat(gguf.values())
                    .containsEntry("general.architecture", "test")
                    .containsEntry("a.u8", 200L)
                    .containsEntry("a.i8", -5L)
                    .containsEntry("a.u16", 60000L)
                    .containsEntry("a.i16", -3000L)
                    .containsEntry("a.u32", 4000000000L)
                    .containsEntry("a.i32", -2000000000L)
                    .containsEntry("a.f32", (double) 0.1f)
                    .containsEntry("a.bool", true)
                    .containsEntry("a.string", "Grüße ☂")
                    .containsEntry("a.u64", new BigInteger("18446744073709551615"))
                    .containsEntry("a.i64", -(1L << 62))
                    .containsEntry("a.f64", 0.1)
                    .containsEntry("a.strings", List.of("one", "", "drei"))
                    .containsEntry("a.ints", List.of(1L, -2L, 3L))
                    .containsEntry("a.floats", List.of(0.5, -1.25))
                    .containsEntry("a.bools", List.of(true, false));
            assertThat(gguf.metadata()).containsEntry("a.bool", "true").doesNotContainKey("a.ints");
        }
    }

    @Test
    void halvesAreReadExactly() {
        // IEEE 754 binary16: 1, -2, largest, smallest normal and subnormal, zeros, infinities
        assertThat(half(0x3c00)).isEqualTo(1f);
        assertThat(half(0xc000)).isEqualTo(-2f);
        assertThat(half(0x7bff)).isEqualTo(65504f);
        assertThat(half(0x0400)).isEqualTo(0x1p-14f);
        assertThat(half(0x0001)).isEqualTo(0x1p-24f);
        assertThat(half(0x83ff)).isEqualTo(-0x1.ff8p-15f);
        assertThat(Float.floatToRawIntBits(half(0x8000))).isEqualTo(0x80000000);
        assertThat(half(0x7c00)).isEqualTo(Float.POSITIVE_INFINITY);
        assertThat(half(0xfc00)).isEqualTo(Float.NEGATIVE_INFINITY);
        assertThat(half(0x7e01)).isNaN();
    }

    @Test
    void q8kIsAFloatScaleTimesSignedBytes() {
        // The reference package has no Q8_K; its definition is y = d q with a float d.
        ByteBuffer block =
                ByteBuffer.allocate(292).order(ByteOrder.LITTLE_ENDIAN).putFloat(0.25f);
        for (int i = 0; i < 256; i++) {
            block.put((byte) (i - 128));
        }
        float[] values = new float[256];
        GgmlBlocks.q8_k(block.array(), 0, values, 0);
        for (int i = 0; i < 256; i++) {
            assertThat(values[i]).isEqualTo(0.25f * (i - 128));
        }
    }

    @Test
    void readsARealModelWithinSeconds() {
        String models = System.getenv("ESPALIER_MODELS");
        Path folder = models != null
                ? Path.of(models)
                : Path.of(System.getProperty("espalier.root", "..")).resolve("../shared/models");
        Path file = folder.resolve("SmolLM2-135M-Instruct.Q4_1.gguf");
        assumeTrue(
                Files.exists(file), "skipped: no SmolLM2-135M-Instruct.Q4_1.gguf; set ESPALIER_MODELS to its folder");
        long start = System.nanoTime();
        try (Gguf gguf = Gguf.open(file)) {
            assertThat(gguf.values())
                    .containsEntry("general.architecture", "llama")
                    .containsEntry("llama.embedding_length", 576L);
            assertThat((List<?>) gguf.values().get("tokenizer.ggml.tokens")).hasSize(49152);
            assertThat(gguf.info("token_embd.weight").dims()).containsExactly(49152, 576);
            assertThat(gguf.info("blk.0.ffn_down.weight").dims()).containsExactly(576, 1536);
            long weights = 0;
            for (String name : gguf.tensors().keySet()) {
                try (Tensor tensor = gguf.read(name)) {
                    weights += tensor.numel();
                }
            }
            assertThat(weights).isEqualTo(134_515_008); // 135M: the model's card counts tied embeddings once
        }
        assertThat((System.nanoTime() - start) / 1e9).as("seconds").isLessThan(20);
    }

    @Test
    void versionTwoIsReadAndOthersAreNot() throws IOException {
        byte[] bytes = Golden.bytes("gguf/all_types.gguf");
        bytes[4] = 2;
        Gguf.open(write(bytes)).close();
        bytes[4] = 1;
        refused(bytes).hasMessageContaining("is of GGUF version 1; versions 2 and 3 can be read");
        bytes[4] = 0;
        bytes[7] = 3;
        refused(bytes).hasMessageContaining("is a big-endian GGUF file");
        bytes[0] = 'X';
        refused(bytes).hasMessageContaining("is not a GGUF file");
    }

    @Test
    void countsAndLengthsAreCheckedBeforeTheyAreBelieved() throws IOException {
        refused(header(1L << 60, 0, b -> {}))
                .hasMessageContaining("claims 1152921504606846976 tensors, more than the")
                .hasMessageContaining("bytes left in it can hold");
        refused(header(0, -1, b -> {})).hasMessageContaining("claims 18446744073709551615 keys");
        refused(header(0, 1, b -> b.putLong(1L << 40))).hasMessageContaining("claims 1099511627776 bytes in a key");
        refused(header(0, 1, b -> string(b, "k").putInt(9).putInt(10).putLong(1L << 50)))
                .hasMessageContaining("claims 1125899906842624 elements in k");
        refused(header(0, 1, b -> string(b, "k").putInt(13))).hasMessageContaining("key k has the value type 13");
        refused(header(0, 1, b -> string(b, "k").putInt(7).put((byte) 2)))
                .hasMessageContaining("key k should be 0 or 1, found 2");
        refused(header(0, 1, b -> {
                    string(b, "k").putInt(9);
                    for (int i = 0; i < 6; i++) {
                        b.putInt(9).putLong(1);
                    }
                }))
                .hasMessageContaining("key k nests arrays more than 4 deep");
        refused(header(0, 2, b -> {
                    string(b, "k").putInt(4).putInt(1);
                    string(b, "k").putInt(4).putInt(1);
                }))
                .hasMessageContaining("gives the key k twice");
        refused(header(0, 1, b -> string(b, "general.alignment").putInt(4).putInt(12)))
                .hasMessageContaining("has a general.alignment of 12");
    }

    @Test
    void tensorsAreHeldAgainstTheFile() throws IOException {
        refused(tensor(5, 0, 0)).hasMessageContaining("tensor t has 5 dimensions, more than the format's 4");
        refused(tensor(1, 1000, 0, 32)).hasMessageContaining("tensor t has the ggml type 1000, which cannot be read");
        refused(tensor(1, 2, 0, 33))
                .hasMessageContaining("tensor t has rows of 33 values, which blocks of 32 (Q4_0) do not fill");
        refused(tensor(2, 0, 0, 1L << 40, 1L << 40)).hasMessageContaining("more than any file can hold");
        refused(tensor(1, 0, 0, 1L << 40)).hasMessageContaining("is larger than the file");
        refused(tensor(1, 0, 7, 1))
                .hasMessageContaining("starts at 7 of the data, which is no multiple of the alignment 32");
        refused(tensor(1, 0, 1L << 62, 1)).hasMessageContaining("is cut off: tensor t should take 4 bytes at");
        refused(header(2, 0, b -> {
                    string(b, "a").putInt(1).putLong(16).putInt(0).putLong(0);
                    string(b, "b").putInt(1).putLong(16).putInt(0).putLong(32);
                }))
                .hasMessageContaining("tensors a and b overlap");
        refused(header(2, 0, b -> {
                    string(b, "a").putInt(1).putLong(8).putInt(0).putLong(0);
                    string(b, "a").putInt(1).putLong(8).putInt(0).putLong(32);
                }))
                .hasMessageContaining("holds the tensor a twice");
    }

    private static float half(int bits) {
        return GgmlBlocks.half(new byte[] {(byte) bits, (byte) (bits >> 8)}, 0);
    }

    private static byte[] tensor(int dims, int type, long offset, long... sizes) {
        return header(1, 0, b -> {
            string(b, "t").putInt(dims);
            for (long size : sizes) {
                b.putLong(size);
            }
            b.putInt(type).putLong(offset);
        });
    }

    /** A version 3 file of 512 bytes: the counts, what is put, zeros. */
    private static byte[] header(long tensors, long keys, Consumer<ByteBuffer> rest) {
        ByteBuffer bytes = ByteBuffer.allocate(512).order(ByteOrder.LITTLE_ENDIAN);
        bytes.put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(3)
                .putLong(tensors)
                .putLong(keys);
        rest.accept(bytes);
        return bytes.array();
    }

    private static ByteBuffer string(ByteBuffer bytes, String text) {
        return bytes.putLong(text.length()).put(text.getBytes(StandardCharsets.US_ASCII));
    }

    private Path write(byte[] bytes) throws IOException {
        Path file = folder.resolve("hostile.gguf");
        Files.write(file, bytes);
        return file;
    }

    private AbstractThrowableAssert<?, ?> refused(byte[] bytes) throws IOException {
        Path file = write(bytes);
        return assertThatThrownBy(() -> Gguf.open(file)).isExactlyInstanceOf(EspalierException.class);
    }
}
