package dev.espalier.train;

import dev.espalier.io.Faults;
import dev.espalier.io.Json;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** {@code metrics.jsonl}: one JSON object a line, each there to be read as soon as it is written. */
public final class MetricsLog implements AutoCloseable {

    private final Path file;
    private final FileChannel channel;

    /**
     * Opens the file, making it if need be.
     *
     * @param length bytes to keep: lines after a checkpoint will be written again by the resumed run
     */
    public MetricsLog(Path file, long length) {
        this.file = file;
        FileChannel opened = null;
        try {
            opened = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
            opened.truncate(length);
            opened.position(opened.size());
        } catch (IOException e) {
            closeQuietly(opened);
            throw Faults.writing(file, e);
        }
        this.channel = opened;
    }

    /** Writes a line. */
    public void append(Map<String, ?> line) {
        ByteBuffer bytes = ByteBuffer.wrap((Json.text(line) + "\n").getBytes(StandardCharsets.UTF_8));
        try {
            while (bytes.hasRemaining()) {
                channel.write(bytes);
            }
        } catch (IOException e) {
            throw Faults.writing(file, e);
        }
    }

    /** Makes all lines durable, and tells how many bytes they are. */
    public long force() {
        try {
            channel.force(true);
            return channel.position();
        } catch (IOException e) {
            throw Faults.writing(file, e);
        }
    }

    @Override
    public void close() {
        closeQuietly(channel);
    }

    private static void closeQuietly(@Nullable FileChannel channel) {
        if (channel != null) {
            try {
                channel.close();
            } catch (IOException e) {
                // What was written is in the file already: there is no buffer of ours that closing would lose.
            }
        }
    }
}
