package dev.espalier.io;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.channels.FileChannel;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;
import java.util.UUID;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * Files that are either the old ones or the new ones, whatever happens in between.
 *
 * <p>Content goes to a temporary name in the target's folder, is forced to disk, verified, renamed over the target, and the
 * folder is forced to disk. On any failure the temporary file is removed and the target is as it was.
 */
public final class AtomicFile {

    /** Names that {@link #temporary} makes. */
    private static final Pattern LEFTOVER = Pattern.compile("\\..+\\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.tmp");

    private AtomicFile() {}

    /**
     * Writes a file atomically; missing parent folders are made.
     *
     * @param target the file to make or replace
     * @param writeTo writes the whole content to the path it is given
     * @throws EspalierException if it cannot be written, for example because the disk is full
     */
    public static void write(Path target, IoConsumer<Path> writeTo) {
        write(target, writeTo, written -> {});
    }

    /**
     * Writes a file atomically if what was written passes a check.
     *
     * @param target the file to make or replace
     * @param writeTo writes the whole content to the path it is given
     * @param verify reads the path it is given back and throws if it is not what was meant
     * @throws EspalierException if it cannot be written
     */
    public static void write(Path target, IoConsumer<Path> writeTo, IoConsumer<Path> verify) {
        Path folder = parent(target);
        Path temporary = temporary(target);
        try {
            if (Files.isDirectory(target)) {
                throw new FileAlreadyExistsException(target.toString(), null, "it is a folder");
            }
            Files.createDirectories(folder);
            try {
                writeTo.accept(temporary);
                force(temporary, StandardOpenOption.WRITE);
                verify.accept(temporary);
                Files.move(temporary, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
            } finally {
                Files.deleteIfExists(temporary);
            }
            forceFolder(folder);
        } catch (IOException e) {
            throw Faults.writing(target, e);
        } catch (UncheckedIOException e) {
            throw Faults.writing(target, Objects.requireNonNull(e.getCause()));
        }
    }

    /** Writes text in UTF-8 atomically. */
    public static void write(Path target, String text) {
        write(target, path -> Files.writeString(path, text));
    }

    /**
     * Writes a whole folder atomically: it appears complete, or not at all.
     *
     * @param target a folder that does not exist yet, or is empty
     * @param fill writes the content into the folder it is given
     * @throws EspalierException if the target holds something already, or cannot be written
     */
    public static void writeFolder(Path target, IoConsumer<Path> fill) {
        Path folder = parent(target);
        Path temporary = temporary(target);
        try {
            if (Files.exists(target, LinkOption.NOFOLLOW_LINKS)) {
                check(
                        Files.isDirectory(target) && isEmpty(target),
                        "%s exists and is not an empty folder; choose another folder or remove it",
                        target);
            }
            Files.createDirectories(folder);
            try {
                Files.createDirectory(temporary);
                fill.accept(temporary);
                for (Path path : walk(temporary)) {
                    if (Files.isDirectory(path)) {
                        forceFolder(path);
                    } else {
                        force(path, StandardOpenOption.WRITE);
                    }
                }
                Files.deleteIfExists(target); // the empty one: Windows does not rename over a folder
                Files.move(temporary, target, StandardCopyOption.ATOMIC_MOVE);
            } finally {
                deleteTree(temporary);
            }
            forceFolder(folder);
        } catch (IOException e) {
            throw Faults.writing(target, e);
        } catch (UncheckedIOException e) {
            throw Faults.writing(target, Objects.requireNonNull(e.getCause()));
        }
    }

    /**
     * Removes what writes that were killed left behind in a folder. Call it where nobody else is writing, for example before a
     * run goes on.
     */
    public static void removeLeftovers(Path folder) {
        try (Stream<Path> entries = Files.list(folder)) {
            for (Path entry : entries.toList()) {
                if (LEFTOVER.matcher(entry.getFileName().toString()).matches()) {
                    deleteTree(entry);
                }
            }
        } catch (IOException e) {
            throw Faults.writing(folder, e);
        }
    }

    private static Path parent(Path target) {
        Path parent = target.toAbsolutePath().getParent();
        if (parent == null) {
            throw new EspalierException("%s is the root of the file system; name a file in a folder".formatted(target));
        }
        return parent;
    }

    /** Not {@link Files#createTempFile}, whose files only their owner may read: the rename would keep that. */
    private static Path temporary(Path target) {
        return parent(target).resolve("." + target.getFileName() + "." + UUID.randomUUID() + ".tmp");
    }

    private static boolean isEmpty(Path folder) throws IOException {
        try (Stream<Path> entries = Files.list(folder)) {
            return entries.findAny().isEmpty();
        }
    }

    private static List<Path> walk(Path folder) throws IOException {
        try (Stream<Path> paths = Files.walk(folder)) {
            return paths.sorted(Comparator.reverseOrder()).toList(); // children before their folder
        }
    }

    private static void deleteTree(Path folder) throws IOException {
        if (Files.exists(folder, LinkOption.NOFOLLOW_LINKS)) {
            for (Path path : walk(folder)) {
                Files.deleteIfExists(path);
            }
        }
    }

    private static void force(Path path, StandardOpenOption how) throws IOException {
        try (FileChannel channel = FileChannel.open(path, how)) {
            channel.force(true);
        }
    }

    /** Makes a rename durable. Windows cannot open a folder, and journals renames itself. */
    private static void forceFolder(Path folder) throws IOException {
        if (folder.getFileSystem().supportedFileAttributeViews().contains("posix")) {
            force(folder, StandardOpenOption.READ);
        }
    }
}
