package dev.espalier.io;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import org.jspecify.annotations.Nullable;

/** An open file of any size, read at absolute positions. Several threads may read at once. */
final class FileBytes implements ByteReader, AutoCloseable {

    private final Path file;
    private final FileChannel channel;
    private final long size;

    private FileBytes(Path file, FileChannel channel, long size) {
        this.file = file;
        this.channel = channel;
        this.size = size;
    }

    static FileBytes open(Path file) {
        try {
            if (!Files.exists(file)) {
                throw new NoSuchFileException(file.toString());
            }
            if (!Files.isRegularFile(file)) {
                throw new EspalierException("%s is a folder, not a file; name the file inside it".formatted(file));
            }
            FileChannel channel = FileChannel.open(file, StandardOpenOption.READ);
            return new FileBytes(file, channel, channel.size());
        } catch (IOException e) {
            throw Faults.reading(file, e);
        }
    }

    Path file() {
        return file;
    }

    /** Bytes in the file when it was opened. */
    long size() {
        return size;
    }

    /** Fills {@code into} from a position. */
    @Override
    public void read(long position, ByteBuffer into) {
        try {
            long at = position;
            while (into.hasRemaining()) {
                int count = channel.read(into, at);
                if (count < 0) {
                    throw new EspalierException(
                            "%s ends at byte %d though %d were there when it was opened; do not change it while it is read"
                                    .formatted(file, at, size));
                }
                at += count;
            }
        } catch (IOException e) {
            throw Faults.reading(file, e);
        }
    }

    /**
     * Copy-on-write pages of the file, at most 2 GiB, or null if this user may not write the file: the JDK has no
     * copy-on-write mapping of a file opened for reading, and a write to read-only pages would end the process.
     */
    @Nullable
    ByteBuffer mapPrivate(long position, long length) {
        if (!Files.isWritable(file)) {
            return null;
        }
        try (FileChannel writable = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            return writable.map(MapMode.PRIVATE, position, length).order(ByteOrder.LITTLE_ENDIAN);
        } catch (IOException e) {
            return null; // for example no address space: the caller copies instead
        }
    }

    @Override
    public void close() {
        try {
            channel.close();
        } catch (IOException e) {
            throw Faults.reading(file, e);
        }
    }
}
