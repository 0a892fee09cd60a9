package dev.espalier.io;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.util.Locale;

/** Turns what the file system says into a sentence for the user. */
public final class Faults {

    private Faults() {}

    /** The sentence for a file that could not be read. */
    public static EspalierException reading(Path file, IOException fault) {
        String sentence;
        if (fault instanceof NoSuchFileException) {
            sentence = "%s does not exist; check the path".formatted(file);
        } else if (fault instanceof AccessDeniedException) {
            sentence = "%s may not be read by this user; check its permissions".formatted(file);
        } else if (fault instanceof CharacterCodingException) {
            sentence = "%s is not UTF-8 text; convert it to UTF-8".formatted(file);
        } else {
            sentence = "%s could not be read: %s".formatted(file, reason(fault));
        }
        return new EspalierException(sentence, fault);
    }

    /** The sentence for a file or folder that could not be written. */
    public static EspalierException writing(Path file, IOException fault) {
        String reason = reason(fault);
        String lower = reason.toLowerCase(Locale.ROOT);
        String sentence;
        if (lower.contains("no space left") || lower.contains("not enough space") || lower.contains("disk full")) {
            sentence = "The disk is full: %s was not written and nothing was changed; free some space and run again"
                    .formatted(file);
        } else if (lower.contains("quota")) {
            sentence =
                    "The disk quota is used up: %s was not written and nothing was changed; free some space and run again"
                            .formatted(file);
        } else if (fault instanceof AccessDeniedException) {
            sentence = "%s may not be written by this user; check the permissions of its folder".formatted(file);
        } else if (fault instanceof NotDirectoryException || lower.contains("not a directory")) {
            sentence = "%s could not be written: a part of its path is a file, not a folder".formatted(file);
        } else {
            sentence = "%s could not be written: %s".formatted(file, reason);
        }
        return new EspalierException(sentence, fault);
    }

    /** A name out of a file as it may stand in a sentence: one line, not too long. */
    static String shown(String name) {
        String line = name.codePoints()
                .map(c -> Character.isISOControl(c) ? '?' : c)
                .collect(StringBuilder::new, StringBuilder::appendCodePoint, StringBuilder::append)
                .toString();
        return line.length() <= 200 ? line : line.substring(0, 197) + "...";
    }

    private static String reason(IOException fault) {
        if (fault instanceof FileSystemException system && system.getReason() != null) {
            return system.getReason();
        }
        String message = fault.getMessage();
        return fault.getClass() == IOException.class && message != null
                ? message
                : fault.getClass().getSimpleName() + (message == null ? "" : " (" + message + ")");
    }
}
