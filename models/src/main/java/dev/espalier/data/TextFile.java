package dev.espalier.data;

import dev.espalier.EspalierException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** A text file known to be UTF-8: bytes that are not are refused with their place, which no reader of the JDK tells. */
final class TextFile {

    private static final char BYTE_ORDER_MARK = '\uFEFF';

    private TextFile() {}

    /** A reader that starts behind a byte order mark, if there is one. */
    static BufferedReader open(Path file) throws IOException {
        requireUtf8(file);
        BufferedReader reader = Files.newBufferedReader(file, StandardCharsets.UTF_8);
        reader.mark(1);
        if (reader.read() != BYTE_ORDER_MARK) {
            reader.reset();
        }
        return reader;
    }

    private static void requireUtf8(Path file) throws IOException {
        CharsetDecoder decoder = StandardCharsets.UTF_8
                .newDecoder()
                .onMalformedInput(CodingErrorAction.REPORT)
                .onUnmappableCharacter(CodingErrorAction.REPORT);
        ByteBuffer bytes = ByteBuffer.allocate(1 << 16);
        CharBuffer chars = CharBuffer.allocate(1 << 16);
        long offset = 0; // of the first byte in the buffer
        long line = 1;
        try (InputStream in = Files.newInputStream(file)) {
            boolean end = false;
            while (!end) {
                int read = in.read(bytes.array(), bytes.position(), bytes.remaining());
                end = read < 0;
                bytes.position(bytes.position() + Math.max(read, 0)).flip();
                chars.clear();
                CoderResult result = decoder.decode(bytes, chars, end);
                int decoded = bytes.position();
                for (int i = 0; i < decoded; i++) {
                    line += bytes.get(i) == '\n' ? 1 : 0;
                }
                if (result.isError()) {
                    int first = bytes.get(decoded) & 0xFF;
                    boolean utf16 = offset + decoded == 0 && (first == 0xFE || first == 0xFF);
                    throw new EspalierException("%s:%d: byte 0x%02X at offset %d is not UTF-8%s; save the file as UTF-8"
                            .formatted(file, line, first, offset + decoded, utf16 ? " (it looks like UTF-16)" : ""));
                }
                offset += decoded;
                bytes.compact();
            }
        }
    }
}
