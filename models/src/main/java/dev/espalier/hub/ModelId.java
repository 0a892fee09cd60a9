package dev.espalier.hub;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * What {@code org/name[/file.gguf][@revision]} says.
 *
 * @param repository {@code org/name}, or a bare name of the hub's early days
 * @param file a single file to fetch, or null for a whole model
 * @param revision a branch, tag or commit
 */
record ModelId(String repository, @Nullable String file, String revision) {

    private static final String WORD = "[A-Za-z0-9][A-Za-z0-9._-]*";
    private static final Pattern SHAPE = Pattern.compile(
            "(?<repository>" + WORD + "(/" + WORD + ")?)(/(?<file>[^@]+\\.gguf))?(@(?<revision>[^@]+))?");

    /** The parts of a name, or null if it cannot be a hub's. */
    static @Nullable ModelId parse(String name) {
        Matcher matcher = SHAPE.matcher(name);
        if (!matcher.matches()) {
            return null;
        }
        String revision = matcher.group("revision");
        ModelId id =
                new ModelId(matcher.group("repository"), matcher.group("file"), revision == null ? "main" : revision);
        if (id.file != null) {
            checkSafe(id.file, name);
        }
        checkSafe(id.revision, name);
        return id;
    }

    boolean isCommit() {
        return revision.matches("[0-9a-f]{40}");
    }

    /** The folder of the repository within the cache. */
    Path folder(Path cache) {
        return cache.resolve("models--" + repository.replace("/", "--"));
    }

    /**
     * Refuses names that would leave the folder they are meant for.
     *
     * @throws EspalierException for absolute names, "..", backslashes, colons and control characters
     */
    static void checkSafe(String name, String where) {
        boolean safe = !name.isEmpty() && name.chars().noneMatch(c -> c < ' ' || c == '\\' || c == ':');
        for (String part : name.split("/", -1)) {
            safe &= !part.isEmpty() && !part.equals(".") && !part.equals("..");
        }
        check(safe, "%s: the name \"%s\" could leave the cache folder; it is refused", where, name);
    }

    @Override
    public String toString() {
        return repository + (file == null ? "" : "/" + file) + (revision.equals("main") ? "" : "@" + revision);
    }
}
