package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Reads conversations: {@code role} and {@code content}, or ShareGPT's {@code from} and {@code value}. */
final class TurnReader {

    /** Names that ShareGPT data use for the roles of chat templates. */
    private static final Map<String, String> ROLES = Map.ofEntries(
            Map.entry("human", "user"),
            Map.entry("gpt", "assistant"),
            Map.entry("chatgpt", "assistant"),
            Map.entry("model", "assistant"),
            Map.entry("bot", "assistant"),
            Map.entry("observation", "tool"),
            Map.entry("function_response", "tool"));

    private TurnReader() {}

    static Example.Chat chat(Row row, @Nullable Object value, @Nullable String system, @Nullable Object tools) {
        String source = row.source();
        if (!(value instanceof List<?> list) || list.isEmpty()) {
            throw new EspalierException(
                    "%s: the conversation is missing or empty; give it a user's and an assistant's turn or delete the row"
                            .formatted(source));
        }
        List<Turn> turns = new ArrayList<>();
        if (system != null) {
            turns.add(new Turn("system", system));
        }
        int number = 0;
        for (Object turn : list) {
            turns.add(turn(turn, "%s: turn %d".formatted(source, ++number)));
        }
        check(
                turns.stream().anyMatch(Turn::supervised),
                "%s: no turn is the assistant's, so there is nothing to learn; add its answer or delete the row",
                source);
        return new Example.Chat(turns, tools(tools, source), source);
    }

    private static Turn turn(@Nullable Object value, String where) {
        if (!(value instanceof Map<?, ?> map)) {
            throw new EspalierException("%s must be an object with role and content, found %s".formatted(where, value));
        }
        Map<String, Object> fields = new LinkedHashMap<>();
        map.forEach((k, v) -> {
            if (v != null) {
                fields.put(String.valueOf(k), v);
            }
        });
        Object role = take(fields, "role", "from");
        Object content = take(fields, "content", "value");
        if (!(role instanceof String given)) {
            throw new EspalierException("%s has no role; its fields are %s".formatted(where, map.keySet()));
        }
        String name = ROLES.getOrDefault(given, given);
        check(
                Turn.ROLES.contains(name),
                "%s has the unknown role \"%s\"; use system, user (human), assistant (gpt) or tool (observation)",
                where,
                role);
        String text = content(content, where);
        boolean mayBeEmpty = name.equals("system") || name.equals("tool") || fields.containsKey("tool_calls");
        check(mayBeEmpty || !text.isBlank(), "%s (%s) is empty; fill it in or delete the row", where, name);
        return new Turn(name, text, fields);
    }

    private static @Nullable Object take(Map<String, Object> fields, String name, String other) {
        Object value = fields.remove(name);
        return value == null ? fields.remove(other) : value;
    }

    /** A string, or a list of parts whose texts are joined. */
    private static String content(@Nullable Object content, String where) {
        if (content == null) {
            return "";
        }
        if (content instanceof List<?> parts) {
            StringBuilder text = new StringBuilder();
            for (Object part : parts) {
                boolean isText = part instanceof Map<?, ?> m && m.get("text") instanceof String;
                check(
                        isText,
                        "%s has a part that is not text (%s); only parts with type text are read, so remove it",
                        where,
                        part instanceof Map<?, ?> m ? m.get("type") : part);
                text.append(((Map<?, ?>) part).get("text"));
            }
            return text.toString();
        }
        check(content instanceof String, "%s: content must be text or a list of parts, found %s", where, content);
        return (String) content;
    }

    private static List<Map<String, Object>> tools(@Nullable Object value, String source) {
        if (value == null) {
            return List.of();
        }
        check(value instanceof List<?>, "%s: tools must be a list of JSON schemas, found %s", source, value);
        List<Map<String, Object>> tools = new ArrayList<>();
        for (Object tool : (List<?>) value) {
            check(tool instanceof Map<?, ?>, "%s: a tool must be a JSON schema, found %s", source, tool);
            Map<String, Object> schema = new LinkedHashMap<>();
            ((Map<?, ?>) tool).forEach((k, v) -> {
                if (v != null) {
                    schema.put(String.valueOf(k), v);
                }
            });
            tools.add(schema);
        }
        return tools;
    }
}
