package dev.espalier.recipe;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.AtomicFile;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/**
 * The first thing to try: LoRA on the built-in MiniLM over support tickets that come with Espalier, 532 to learn from and 224
 * to judge by, 14 intents.
 */
public final class Quickstart {

    /** In the folder: the data, as files to try other commands on. */
    public static final String DATA = "data";

    /** In the folder: the adapter. */
    public static final String ADAPTER = "adapter";

    /** In the folder: the recipe that was carried out. */
    public static final String RECIPE = "recipe.yaml";

    private static final List<String> ENTRIES = List.of(DATA, ADAPTER, RECIPE);

    private Quickstart() {}

    /**
     * Puts data and recipe into a folder. What an earlier quickstart left there is removed.
     *
     * @throws EspalierException if the folder holds anything else
     */
    public static Recipe prepare(Path folder) {
        clear(folder);
        Path data = folder.resolve(DATA);
        for (String file : List.of("train.csv", "test.csv")) {
            AtomicFile.write(data.resolve(file), target -> {
                try (InputStream in = open("/quickstart/" + file)) {
                    Files.copy(in, target);
                }
            });
        }
        String text;
        try (InputStream in = open("/quickstart/" + RECIPE)) {
            text = new String(in.readAllBytes(), java.nio.charset.StandardCharsets.UTF_8)
                    .replace("${folder}", folder.toString().replace('\\', '/'));
        } catch (IOException e) {
            throw new EspalierException("the quickstart's recipe cannot be read: " + e.getMessage(), e);
        }
        AtomicFile.write(folder.resolve(RECIPE), text);
        return Recipe.read(folder.resolve(RECIPE).toString(), List.of());
    }

    private static InputStream open(String resource) {
        InputStream in = Quickstart.class.getResourceAsStream(resource);
        if (in == null) {
            throw new EspalierException("this build lacks " + resource + "; build it anew");
        }
        return in;
    }

    private static void clear(Path folder) {
        if (!Files.exists(folder)) {
            return;
        }
        check(Files.isDirectory(folder), "%s is a file; choose a folder for the quickstart", folder);
        try (Stream<Path> list = Files.list(folder)) {
            List<Path> found = list.toList();
            boolean ours = found.isEmpty() || Files.isRegularFile(folder.resolve(RECIPE));
            for (Path entry : found) {
                check(
                        ours && ENTRIES.contains(entry.getFileName().toString()),
                        "%s holds %s, which no quickstart left there; choose another folder with --out",
                        folder,
                        entry.getFileName());
            }
            for (Path entry : found) {
                delete(entry);
            }
        } catch (IOException e) {
            throw new EspalierException("%s cannot be emptied: %s".formatted(folder, e.getMessage()), e);
        }
    }

    private static void delete(Path entry) throws IOException {
        List<Path> below;
        try (Stream<Path> walk = Files.walk(entry)) {
            below = walk.sorted(Comparator.reverseOrder()).toList();
        }
        for (Path path : below) {
            Files.delete(path);
        }
    }
}
