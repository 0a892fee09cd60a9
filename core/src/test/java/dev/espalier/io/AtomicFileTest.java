package dev.espalier.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.UUID;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AtomicFileTest {

    @TempDir
    Path folder;

    @Test
    void replacesAFileAndLeavesNothingBeside() throws IOException {
        Path file = folder.resolve("new/deep/a.txt");
        AtomicFile.write(file, "one");
        AtomicFile.write(file, "two");
        assertThat(Files.readString(file)).isEqualTo("two");
        assertThat(names(file.getParent())).containsExactly("a.txt");
    }

    @Test
    void failedWriteKeepsTheOldFile() throws IOException {
        Path file = folder.resolve("a.txt");
        AtomicFile.write(file, "old");
        assertThatThrownBy(() -> AtomicFile.write(file, temporary -> {
                    Files.writeString(temporary, "half");
                    throw new IOException("No space left on device");
                }))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage("The disk is full: " + file
                        + " was not written and nothing was changed; free some space and run again");
        assertThat(Files.readString(file)).isEqualTo("old");
        assertThat(names(folder)).containsExactly("a.txt");
    }

    @Test
    void failedCheckKeepsTheOldFile() throws IOException {
        Path file = folder.resolve("a.txt");
        AtomicFile.write(file, "old");
        EspalierException fault = new EspalierException("not what was meant");
        assertThatThrownBy(() -> AtomicFile.write(file, temporary -> Files.writeString(temporary, "new"), temporary -> {
                    assertThat(Files.readString(temporary)).isEqualTo("new");
                    throw fault;
                }))
                .isSameAs(fault);
        assertThat(Files.readString(file)).isEqualTo("old");
        assertThat(names(folder)).containsExactly("a.txt");
    }

    @Test
    void aFileInThePathOrAFolderInPlaceIsExplained() throws IOException {
        Path file = folder.resolve("a.txt");
        AtomicFile.write(file, "old");
        assertThatThrownBy(() -> AtomicFile.write(file.resolve("b.txt"), "x"))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith(file.resolve("b.txt") + " could not be written");
        assertThatThrownBy(() -> AtomicFile.write(folder, "x"))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage(folder + " could not be written: it is a folder");
    }

    @Test
    void folderAppearsWholeOrNotAtAll() throws IOException {
        Path checkpoint = folder.resolve("checkpoint-10");
        assertThatThrownBy(() -> AtomicFile.writeFolder(checkpoint, temporary -> {
                    Files.writeString(temporary.resolve("a"), "half");
                    throw new IOException("Disk quota exceeded");
                }))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith("The disk quota is used up: " + checkpoint);
        assertThat(names(folder)).isEmpty();

        Files.createDirectory(checkpoint);
        AtomicFile.writeFolder(checkpoint, temporary -> {
            Files.createDirectory(temporary.resolve("sub"));
            Files.writeString(temporary.resolve("sub/b"), "whole");
        });
        assertThat(names(folder)).containsExactly("checkpoint-10");
        assertThat(Files.readString(checkpoint.resolve("sub/b"))).isEqualTo("whole");

        assertThatThrownBy(() -> AtomicFile.writeFolder(checkpoint, temporary -> {}))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessage(checkpoint + " exists and is not an empty folder; choose another folder or remove it");
    }

    @Test
    void aFullDiskIsSaidAsTheSystemSaysIt() throws IOException {
        Path full = Path.of("/dev/full"); // Linux: every write to it fails as on a full disk
        assumeTrue(Files.exists(full), "skipped: this system has no /dev/full");
        Path file = folder.resolve("a.txt");
        assertThatThrownBy(() -> AtomicFile.write(file, temporary -> Files.writeString(full, "x")))
                .isExactlyInstanceOf(EspalierException.class)
                .hasMessageStartingWith("The disk is full: " + file + " was not written");
        assertThat(names(folder)).isEmpty();
    }

    @Test
    void leftoversOfKilledWritesAreRemovedAndNothingElse() throws IOException {
        Path kept = folder.resolve(".hidden.tmp");
        Files.writeString(kept, "mine");
        AtomicFile.write(folder.resolve("a.bin"), temporary -> {
            Files.writeString(temporary, "x");
            Files.copy(temporary, temporary.resolveSibling(leftover("a.bin")));
        });
        Files.createDirectories(folder.resolve(leftover("checkpoint-1")).resolve("sub"));
        assertThat(names(folder)).hasSize(4);
        AtomicFile.removeLeftovers(folder);
        assertThat(names(folder)).containsExactly(".hidden.tmp", "a.bin");
    }

    private static String leftover(String name) {
        return "." + name + "." + UUID.randomUUID() + ".tmp";
    }

    @Test
    void othersMayReadTheFileAsIfItHadBeenWrittenPlainly() throws IOException {
        Path plain = folder.resolve("plain");
        Files.writeString(plain, "x");
        Path atomic = folder.resolve("atomic");
        AtomicFile.write(atomic, "x");
        if (plain.getFileSystem().supportedFileAttributeViews().contains("posix")) {
            assertThat(Files.getPosixFilePermissions(atomic)).isEqualTo(Files.getPosixFilePermissions(plain));
        }
    }

    private static List<String> names(Path folder) throws IOException {
        try (Stream<Path> list = Files.list(folder)) {
            return list.map(p -> p.getFileName().toString()).sorted().toList();
        }
    }
}
