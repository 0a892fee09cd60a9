package dev.espalier.text;

import java.util.HashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Tokens by id and ids by token. */
final class Vocabulary {

    private final Map<String, Integer> ids;
    private final @Nullable String[] tokens;

    Vocabulary(Map<String, Integer> ids, int size) {
        this.ids = new HashMap<>(ids);
        this.tokens = new String[size];
        ids.forEach((token, id) -> tokens[id] = token);
    }

    int size() {
        return tokens.length;
    }

    @Nullable
    Integer id(String token) {
        return ids.get(token);
    }

    @Nullable
    String token(int id) {
        return id >= 0 && id < tokens.length ? tokens[id] : null;
    }
}
