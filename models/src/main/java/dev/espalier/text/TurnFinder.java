package dev.espalier.text;

import dev.espalier.EspalierException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Finds the assistant's turns in a rendering by rendering parts of the conversation.
 *
 * <p>A turn begins where the text up to it, generation prompt included, ends; and ends where the text up to and with it
 * ends. Some templates write a turn differently once another follows (Qwen3 drops the reasoning, Phi moves the EOS);
 * there a mark put into the turn's content shows where the content lies, and the text behind the mark in the shorter
 * rendering shows what closes a turn.
 */
final class TurnFinder {

    private static final String MARK = "\uE000\uE0FF\uE000"; // private use: no template changes it or writes it

    private final ChatTemplate template;
    private final List<Map<String, Object>> messages;
    private final ChatTemplate.Options closed;
    private final String whole;

    TurnFinder(ChatTemplate template, List<Map<String, Object>> messages, ChatTemplate.Options closed, String whole) {
        this.template = template;
        this.messages = messages;
        this.closed = closed;
        this.whole = whole;
    }

    List<Span> spans() {
        List<Span> spans = new ArrayList<>();
        int done = 0;
        for (int i = 0; i < messages.size(); i++) {
            if ("assistant".equals(messages.get(i).get("role"))) {
                int start = start(i);
                int end = start < 0 ? -1 : end(i);
                if (start < done || end <= start) {
                    throw new EspalierException(
                            "the chat template writes what comes before message %d (assistant) differently once more follows, so what the assistant wrote there cannot be told; mark it with {%% generation %%} in the template, or keep one assistant turn, the last, in each conversation"
                                    .formatted(i + 1));
                }
                spans.add(new Span(start, end));
                done = end;
            }
        }
        return spans;
    }

    /** Where turn i begins in the whole; -1 if that cannot be told. */
    private int start(int i) {
        String prompt = render(messages.subList(0, i), closed.withGenerationPrompt(true));
        return prompt != null && whole.startsWith(prompt) ? prompt.length() : marked(i, false);
    }

    /** Where turn i ends in the whole, with what closes it; -1 if that cannot be told. */
    private int end(int i) {
        List<Map<String, Object>> before = messages.subList(0, i + 1);
        String upTo = i + 1 == messages.size() ? whole : render(before, closed);
        if (upTo != null && whole.startsWith(upTo)) {
            return closing(upTo, content(i));
        }
        int end = marked(i, true);
        List<Map<String, Object>> withMark = new ArrayList<>(before);
        withMark.set(i, withMark(i, true));
        String marked = render(withMark, closed);
        if (end < 0 || marked == null || marked.indexOf(MARK) < 0) {
            return -1;
        }
        // What closes a turn, as far as it does so in the whole too; the rest belongs to the end of a conversation.
        String close = marked.substring(marked.indexOf(MARK) + MARK.length());
        int same = 0;
        while (same < close.length() && end + same < whole.length() && close.charAt(same) == whole.charAt(end + same)) {
            same++;
        }
        if (same < close.length()) {
            String begun = close.substring(0, same);
            same = Math.max(begun.lastIndexOf('>'), begun.lastIndexOf(']')) + 1; // no half of a token
        }
        return closing(whole.substring(0, end + same), content(i));
    }

    /** The length without white space at its end, unless that white space is all that closes the turn. */
    private static int closing(String text, @Nullable String content) {
        String stripped = text.stripTrailing();
        boolean open = content != null && !content.isBlank() && stripped.endsWith(content.strip());
        return open ? text.length() : stripped.length();
    }

    /** Where the content of turn i begins or ends in the whole; -1 if that cannot be told. */
    private int marked(int i, boolean atEnd) {
        String content = content(i);
        if (content == null || content.isBlank()) {
            return -1;
        }
        List<Map<String, Object>> withMark = new ArrayList<>(messages);
        withMark.set(i, withMark(i, atEnd));
        String marked = render(withMark, closed);
        if (marked == null || marked.indexOf(MARK) < 0) {
            return -1;
        }
        int at = marked.indexOf(MARK);
        return whole.equals(marked.substring(0, at) + marked.substring(at + MARK.length())) ? at : -1;
    }

    /** Turn i with a mark inside the white space around its content, which templates trim. */
    private Map<String, Object> withMark(int i, boolean atEnd) {
        Map<String, Object> message = new LinkedHashMap<>(messages.get(i));
        String content = content(i);
        if (content != null) {
            int at = atEnd
                    ? content.stripTrailing().length()
                    : content.length() - content.stripLeading().length();
            message.put("content", content.substring(0, at) + MARK + content.substring(at));
        }
        return message;
    }

    private @Nullable String content(int i) {
        return messages.get(i).get("content") instanceof String content ? content : null;
    }

    /** Null where the template refuses a part of the conversation, such as one without a user's turn. */
    private @Nullable String render(List<Map<String, Object>> part, ChatTemplate.Options options) {
        try {
            return template.render(part, options);
        } catch (EspalierException e) {
            return null;
        }
    }
}
