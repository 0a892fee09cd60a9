package dev.espalier.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.text.jinja.Jinja;
import java.io.IOException;
import java.io.InputStream;
import java.time.Clock;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import tools.jackson.databind.json.JsonMapper;

/** Every case of templates.json, which tools/golden/make_template_fixtures.py wrote with jinja2 under transformers' settings. */
class JinjaFixturesTest {

    private static final Map<String, Object> FIXTURES = read();
    private static final Clock CLOCK =
            Clock.fixed(LocalDateTime.parse((String) FIXTURES.get("now")).toInstant(ZoneOffset.UTC), ZoneOffset.UTC);

    @SuppressWarnings("unchecked")
    private static Map<String, Object> read() {
        try (InputStream in = JinjaFixturesTest.class.getResourceAsStream("templates.json")) {
            return new JsonMapper().readValue(in, Map.class);
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> map(String name) {
        return (Map<String, Object>) FIXTURES.get(name);
    }

    @SuppressWarnings("unchecked")
    private static Stream<Map<String, Object>> cases(String name) {
        return ((List<Map<String, Object>>) FIXTURES.get(name)).stream();
    }

    @TestFactory
    Stream<DynamicTest> conversationsRenderAsInPython() {
        return cases("chats")
                .map(one -> DynamicTest.dynamicTest((String) one.get("name"), () -> {
                    Map<String, Object> variables = new LinkedHashMap<>();
                    variables.put("messages", map("conversations").get((String) one.get("conversation")));
                    variables.put("tools", one.get("extra").equals("tools") ? FIXTURES.get("tools") : null);
                    variables.put(
                            "documents",
                            one.get("template").equals("granite")
                                    ? List.of(Map.of("title", "", "text", "A text that is longer than twenty."))
                                    : null);
                    variables.put("add_generation_prompt", one.get("prompt"));
                    variables.put("bos_token", "<s>");
                    variables.put("eos_token", "</s>");
                    if (one.get("extra").equals("no_thinking")) {
                        variables.put("enable_thinking", false);
                    }
                    compare(one, (String) map("templates").get((String) one.get("template")), variables);
                }));
    }

    @TestFactory
    Stream<DynamicTest> expressionsPrintAsInPython() {
        return cases("expressions")
                .map(one -> DynamicTest.dynamicTest(
                        (String) one.get("name"),
                        () -> compare(one, "{{ " + one.get("name") + " }}", map("variables"))));
    }

    @TestFactory
    Stream<DynamicTest> statementsRunAsInPython() {
        return cases("statements")
                .map(one -> DynamicTest.dynamicTest(
                        (String) one.get("name"), () -> compare(one, (String) one.get("template"), map("variables"))));
    }

    @TestFactory
    Stream<DynamicTest> whatStopsPythonStopsUs() {
        return cases("errors")
                .map(one -> DynamicTest.dynamicTest((String) one.get("name"), () -> {
                    assertThat(one).containsKey("error");
                    compare(one, (String) one.get("template"), map("variables"));
                }));
    }

    private static void compare(Map<String, Object> expected, String template, Map<String, Object> variables) {
        if (expected.containsKey("error")) {
            assertThatThrownBy(() -> Jinja.parse(template).render(variables, CLOCK))
                    .isInstanceOf(EspalierException.class)
                    .hasMessageStartingWith("chat template, line ");
            return;
        }
        Jinja.Result result = Jinja.parse(template).render(variables, CLOCK);
        assertThat(result.text()).isEqualTo(expected.get("text"));
        assertThat(result.generated().stream()
                        .map(block -> List.of(block.start(), block.end()))
                        .toList())
                .isEqualTo(expected.getOrDefault("generated", List.of()));
    }
}
