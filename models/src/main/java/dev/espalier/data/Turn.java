package dev.espalier.data;

import static dev.espalier.Check.check;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;

/**
 * One turn of a conversation.
 *
 * @param role one of {@link #ROLES}
 * @param content its text; empty only for a system turn or one that calls tools
 * @param more further fields as chat templates read them ({@code tool_calls}, {@code name},
 *     {@code reasoning_content}); a {@code weight} of 0, as in OpenAI's format, takes an assistant's turn out of the loss
 */
public record Turn(String role, String content, Map<String, Object> more) {

    /** Roles known to chat templates. */
    public static final Set<String> ROLES = Set.of("system", "developer", "user", "assistant", "tool");

    public Turn {
        check(ROLES.contains(role), "the role \"%s\" is unknown; use system, user, assistant or tool", role);
        more = Collections.unmodifiableMap(
                new LinkedHashMap<>(more)); // in the order of the file, which templates can see
    }

    public Turn(String role, String content) {
        this(role, content, Map.of());
    }

    /** Whether this is the assistant's turn, and not one of weight 0. */
    public boolean supervised() {
        return role.equals("assistant") && !(more.get("weight") instanceof Number weight && weight.doubleValue() == 0);
    }

    /** The same turn with another text. */
    Turn withContent(String text) {
        return new Turn(role, text, more);
    }

    /** The turn as a chat template reads it. */
    public Map<String, Object> toMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("role", role);
        map.put("content", content);
        map.putAll(more);
        map.remove("weight");
        return map;
    }
}
