package dev.espalier.hub;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import dev.espalier.io.AtomicFile;
import java.io.IOException;
import java.net.URLEncoder;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/**
 * Finds a model by its name: a built-in, a folder or file, or {@code org/name}, {@code org/name@revision} or
 * {@code org/name/file.gguf} of a Hugging Face hub, fetched once and kept.
 *
 * <p>Of a hub's repository only what a model needs is fetched: configuration, tokenizer, chat template and safetensors.
 * Every file is verified by the checksum the hub states (SHA-256, or git's SHA-1 for small files) before it gets its name.
 */
public final class Hub {

    /** Models that come with Espalier. */
    public static final Set<String> BUILT_IN = Set.of("minilm");

    private static final Logger LOG = LoggerFactory.getLogger(Hub.class);
    private static final JsonMapper JSON = JsonMapper.shared();
    private static final String INDEX = "model.safetensors.index.json";

    /** Small files beside the weights; each is fetched where it exists. */
    private static final Set<String> SMALL = Set.of(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "chat_template.json",
            "additional_chat_templates/tool_use.jinja",
            "vocab.json",
            "vocab.txt",
            "merges.txt",
            "modules.json",
            "sentence_bert_config.json",
            "1_Pooling/config.json",
            "adapter_config.json");

    private final HubOptions options;
    private final HubClient client;

    /**
     * @param progress hears of downloads
     */
    public Hub(HubOptions options, Progress progress) {
        this(options, new HubClient(options, progress, Duration.ofMillis(500), Duration.ofSeconds(30)));
    }

    Hub(HubOptions options, HubClient client) {
        this.options = options;
        this.client = client;
    }

    /**
     * The place of a model, after fetching it if need be.
     *
     * @throws EspalierException if there is no such model, or it cannot be fetched
     */
    public Located resolve(String model) {
        if (BUILT_IN.contains(model)) {
            return new Located.BuiltIn(model);
        }
        Path local = local(model);
        if (local != null && Files.exists(local)) {
            return new Located.Local(local);
        }
        ModelId id = ModelId.parse(model);
        // "./model" or "a/b/c" can only be meant as a path.
        if (id == null) {
            throw new EspalierException(
                    "\"%s\" is no built-in model (%s), no file or folder that exists, and no id as in org/name; check it"
                            .formatted(model, String.join(", ", BUILT_IN)));
        }
        return new Located.Local(fetch(id));
    }

    private static @Nullable Path local(String model) {
        try {
            return model.startsWith("~/")
                    ? Path.of(System.getProperty("user.home"), model.substring(2))
                    : Path.of(model);
        } catch (InvalidPathException e) {
            return null;
        }
    }

    private synchronized Path fetch(ModelId id) {
        Path folder = id.folder(options.cache());
        Path cached = cached(id, folder);
        if (options.offline()) {
            if (cached == null) {
                throw new EspalierException(
                        ("%s: HF_HUB_OFFLINE is set and %s lacks %s; unset it once, or copy the " + "model there")
                                .formatted(id, folder, id.file() == null ? "the model's files" : id.file()));
            }
            return cached;
        }
        if (cached != null && id.isCommit()) {
            return cached; // a commit never changes
        }
        try {
            Files.createDirectories(folder);
            try (FileChannel channel = FileChannel.open(
                            folder.resolve(".lock"), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
                    FileLock lock = channel.lock()) { // two processes must not write one part
                check(lock.isValid(), "%s: the cache folder %s cannot be locked", id, folder);
                return download(id, folder);
            }
        } catch (HubClient.Unreachable e) {
            if (cached == null) {
                throw e;
            }
            LOG.warn("{}; going on with the copy in {}", e.getMessage(), cached);
            return cached;
        } catch (IOException e) {
            throw new EspalierException(
                    "%s: the cache folder %s cannot be written (%s); set HF_HOME elsewhere".formatted(id, folder, e),
                    e);
        }
    }

    private Path download(ModelId id, Path folder) {
        JsonNode info =
                json(client.text("/api/models/" + id.repository() + "/revision/" + encode(id.revision()), id), id);
        String commit = info.path("sha").asString("");
        check(
                commit.matches("[0-9a-f]{40}"),
                "%s: %s answered without a commit hash; is HF_ENDPOINT a Hugging Face hub?",
                id,
                options.endpoint());
        Set<String> names = new TreeSet<>();
        for (JsonNode sibling : info.path("siblings")) {
            String name = sibling.path("rfilename").asString("");
            ModelId.checkSafe(name, id.toString());
            names.add(name);
        }
        Path snapshot = folder.resolve("snapshots").resolve(commit);
        if (id.file() != null) {
            check(
                    names.contains(id.file()),
                    "%s: the repository has no such file; its GGUF files are %s",
                    id,
                    listed(names, ".gguf"));
            get(id, commit, id.file(), snapshot);
        } else {
            for (String name : names) {
                if (SMALL.contains(name)) {
                    get(id, commit, name, snapshot);
                }
            }
            for (String name : weights(id, commit, names, snapshot)) {
                get(id, commit, name, snapshot);
            }
        }
        // Written last: who finds the reference finds the whole snapshot.
        AtomicFile.write(folder.resolve("refs").resolve(id.revision()), commit);
        return id.file() == null ? snapshot : snapshot.resolve(id.file());
    }

    /** The safetensors to fetch: one file, or the shards of an index, or an adapter's. */
    private Set<String> weights(ModelId id, String commit, Set<String> names, Path snapshot) {
        if (names.contains("model.safetensors")) {
            return Set.of("model.safetensors");
        }
        if (names.contains(INDEX)) {
            get(id, commit, INDEX, snapshot);
            Set<String> shards = shards(snapshot.resolve(INDEX), id);
            for (String shard : shards) {
                check(names.contains(shard), "%s: the index names %s, which the repository lacks", id, shard);
            }
            return shards;
        }
        Set<String> found = names.stream()
                .filter(n -> n.endsWith(".safetensors") && !n.contains("/"))
                .collect(Collectors.toCollection(LinkedHashSet::new));
        check(
                !found.isEmpty(),
                "%s: the repository has no safetensors, and pickled weights are never read; %s",
                id,
                names.stream().anyMatch(n -> n.endsWith(".gguf"))
                        ? "name one of its GGUF files, as in " + id.repository() + "/" + listed(names, ".gguf")
                        : "choose another model or convert this one");
        return found;
    }

    private static String listed(Set<String> names, String ending) {
        String list = names.stream().filter(n -> n.endsWith(ending)).collect(Collectors.joining(", "));
        return list.isEmpty() ? "none" : list;
    }

    private void get(ModelId id, String commit, String name, Path snapshot) {
        Path target = snapshot.resolve(name);
        if (!Files.exists(target)) {
            String path = Stream.of(name.split("/")).map(Hub::encode).collect(Collectors.joining("/"));
            client.download("/" + id.repository() + "/resolve/" + commit + "/" + path, id, name, target);
        }
    }

    private static String encode(String part) {
        return URLEncoder.encode(part, StandardCharsets.UTF_8).replace("+", "%20");
    }

    /** The whole model, or the single file, as an earlier run left it; null if anything is missing. */
    private @Nullable Path cached(ModelId id, Path folder) {
        try {
            Path reference = folder.resolve("refs").resolve(id.revision());
            String commit = id.isCommit()
                    ? id.revision()
                    : Files.exists(reference) ? Files.readString(reference).strip() : "";
            Path snapshot = folder.resolve("snapshots").resolve(commit);
            if (!commit.matches("[0-9a-f]{40}") || !Files.isDirectory(snapshot)) {
                return null;
            }
            if (id.file() != null) {
                Path file = snapshot.resolve(id.file());
                return Files.exists(file) ? file : null;
            }
            List<Path> needed = new ArrayList<>();
            if (Files.exists(snapshot.resolve(INDEX)) && !Files.exists(snapshot.resolve("model.safetensors"))) {
                shards(snapshot.resolve(INDEX), id).forEach(shard -> needed.add(snapshot.resolve(shard)));
            } else {
                try (Stream<Path> files = Files.list(snapshot)) {
                    files.filter(f -> f.toString().endsWith(".safetensors")).forEach(needed::add);
                }
            }
            return !needed.isEmpty() && needed.stream().allMatch(Files::exists) ? snapshot : null;
        } catch (IOException e) {
            throw new EspalierException(
                    "%s: the cache folder %s cannot be read (%s); check its permissions".formatted(id, folder, e), e);
        }
    }

    private static Set<String> shards(Path index, ModelId id) {
        try {
            Set<String> shards = new TreeSet<>();
            for (JsonNode shard : json(Files.readString(index), id).path("weight_map")) {
                ModelId.checkSafe(shard.asString(""), id.toString());
                shards.add(shard.asString(""));
            }
            check(!shards.isEmpty(), "%s: %s names no shards; delete it and fetch again", id, index);
            return shards;
        } catch (IOException e) {
            throw new EspalierException(
                    "%s: %s cannot be read (%s); delete it and fetch again".formatted(id, index, e), e);
        }
    }

    private static JsonNode json(String text, ModelId id) {
        try {
            return JSON.readTree(text);
        } catch (JacksonException e) {
            throw new EspalierException(
                    "%s: expected JSON, found \"%s\"; is HF_ENDPOINT a Hugging Face hub?"
                            .formatted(
                                    id,
                                    text.substring(0, Math.min(text.length(), 40))
                                            .strip()),
                    e);
        }
    }
}
