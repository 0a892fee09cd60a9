package dev.espalier.io;

import static dev.espalier.Check.check;
import static dev.espalier.io.Faults.shown;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;

/**
 * A model in several safetensors files under one index.
 *
 * <pre>
 * {"metadata": {"total_size": 123}, "weight_map": {"NAME": "model-00001-of-00002.safetensors", ...}}
 * </pre>
 *
 * <p>The map decides which file a name is read from. Shards lie beside the index: a path that leads elsewhere is refused.
 */
final class SafetensorsShards implements TensorSource {

    private final Path index;
    private final Map<String, SafetensorsFile> shards = new LinkedHashMap<>();
    private final Map<String, SafetensorsFile> homes = new LinkedHashMap<>();
    private final Map<String, TensorInfo> tensors = new LinkedHashMap<>();
    private final Map<String, String> metadata = new TreeMap<>();

    private SafetensorsShards(Path index) {
        this.index = index;
    }

    static SafetensorsShards open(Path index) {
        SafetensorsShards source = new SafetensorsShards(index);
        try {
            source.readIndex();
            return source;
        } catch (RuntimeException e) {
            source.close();
            throw e;
        }
    }

    private void readIndex() {
        Fields fields = Fields.of(index.toString(), Json.read(index));
        fields.map("metadata", Map.of()).forEach((key, value) -> metadata.put(key, String.valueOf(value)));
        Map<String, String> weights = fields.stringMap("weight_map", Map.of());
        check(!weights.isEmpty(), "%s has no weight_map, or an empty one; fetch the index again", index);
        weights.forEach((name, shard) -> {
            SafetensorsFile file = shards.computeIfAbsent(shard, this::openShard);
            TensorInfo info = file.tensors().get(name);
            check(info != null, "%s says that %s holds tensor %s, which it does not", index, shown(shard), shown(name));
            homes.put(name, file);
            tensors.put(name, Objects.requireNonNull(info));
        });
        for (SafetensorsFile file : shards.values()) {
            for (String name : file.tensors().keySet()) {
                check(
                        homes.containsKey(name),
                        "%s holds tensor %s, which %s does not list; fetch both again",
                        file.where(),
                        shown(name),
                        index);
            }
        }
    }

    private SafetensorsFile openShard(String name) {
        boolean plain = name.endsWith(".safetensors")
                && name.chars().noneMatch(c -> c == '/' || c == '\\' || c == ':' || c < ' ')
                && !name.startsWith(".");
        if (!plain) {
            throw new EspalierException(
                    "%s names the shard \"%s\", which is not the plain name of a .safetensors file beside it"
                            .formatted(index, shown(name)));
        }
        return SafetensorsFile.open(index.resolveSibling(name));
    }

    @Override
    public String where() {
        return index.toString();
    }

    @Override
    public Map<String, TensorInfo> tensors() {
        return Collections.unmodifiableMap(tensors);
    }

    @Override
    public Map<String, String> metadata() {
        return Collections.unmodifiableMap(metadata);
    }

    @Override
    public Tensor read(String name) {
        return home(name).read(name);
    }

    @Override
    public Tensor map(String name) {
        return home(name).map(name);
    }

    private SafetensorsFile home(String name) {
        info(name); // names the nearest if there is none
        return Objects.requireNonNull(homes.get(name));
    }

    @Override
    public void close() {
        shards.values().forEach(SafetensorsFile::close);
    }
}
