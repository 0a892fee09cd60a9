package dev.espalier.text;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.text.jinja.Jinja;
import java.time.Clock;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Messages and limits; what is rendered, JinjaFixturesTest compares with jinja2. */
class JinjaTest {

    private static String render(String template) {
        return Jinja.parse(template).render(Map.of(), Clock.systemUTC()).text();
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '#',
            quoteCharacter = '`',
            value = {
                "`\n\n{{ raise_exception('Roles must alternate') }}` # line 3: Roles must alternate",
                "`{% if true %}\n{{ x.y }}{% endif %}` # line 2: 'x' is undefined",
                "`{{ {'a': 1}.b.c }}` # line 1: dict has no 'b'",
                "`{{ 'a' + 1 }}` # line 1: + cannot stand between str 'a' and int 1",
                "`{{ 'a' + none }}` # line 1: + cannot stand between str 'a' and NoneType None",
                "`{{ [].append(1) }}` # line 1: `append` would change the list",
                "`{% for x in 3 %}{% endfor %}` # line 1: int 3 cannot be iterated over",
                "`{{ 1 | nonsense }}` # line 1: there is no filter `nonsense`",
                "`{{ 1 is nonsense }}` # line 1: there is no test `nonsense`",
                "`{{ 1 < 'a' }}` # line 1: int 1 and str 'a' have no order",
                "`{{ 'x'.split('') }}` # line 1: a string cannot be split at an empty separator",
                "`{{ 'x' | replace('a') }}` # line 1: replace needs the argument new",
                "`{{ 'x' | upper(1) }}` # line 1: upper takes at most 0 arguments, found 1",
                "`{{ 'x' | trim(charz='a') }}` # line 1: trim takes the arguments",
                "`{{ 9223372036854775807 + 1 }}` # line 1: 9223372036854775807 + 1: too large",
                "`{{ 5 // 0 }}` # line 1: 5 // 0: division by zero",
                "`{% set a.b = 1 %}` # line 1: a.b cannot be set",
                "`{% include 'a' %}` # line 1: `include` needs other templates",
                "`{% for i in [1] recursive %}{% endfor %}` # line 1: recursive loops are not known here",
                "`a\n{% for i in [1] %}` # line 2: the template ends where one of [else, endfor] should stand",
                "`\n{{ 1 +` # line 2: a tag is never closed",
                "`{{ 1 ? 2 }}` # line 1: unexpected character `?`",
                "`{{ f(a=1, 2) }}` # line 1: an argument without a name stands after one with a name",
            })
    void mistakesAreNamedWithTheirLine(String template, String message) {
        assertThatThrownBy(() -> render(template))
                .isInstanceOf(EspalierException.class)
                .hasMessageStartingWith("chat template, ")
                .hasMessageContaining(message.replace('`', '"'));
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
                "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
                "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
                "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
                "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(90) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
                "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = n.a + ['x' * 9999999 ~ i] %}{% endfor %}",
                "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set t %}{{ 'x' * 9999999 }}{{ i }}{% endset %}{% set n.a = n.a + [t] %}{% endfor %}",
                "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
                "{{ 'x' * 10 ** 12 }}",
                "{{ [1] * 10 ** 12 }}",
                "{{ '%99999d' % 1 ~ 'x'.center(10 ** 15) }}",
                "{{ 2 ** 10 ** 17 }}",
                "{% for i in range(100000) %}{% for j in range(10000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 100 }}{% endfor %}{% endfor %}",
                "{% set n = namespace(d='') %}{% for i in range(50) %}{% set n.d = (n.d ~ 'ab').replace('a', 'ab' * 1000) %}{% endfor %}",
            })
    void hostileTemplatesEnd(String template) {
        org.junit.jupiter.api.Assertions.assertTimeoutPreemptively(
                Duration.ofSeconds(20),
                () -> assertThatThrownBy(() -> render(template))
                        .isInstanceOf(EspalierException.class)
                        .hasMessageStartingWith("chat template"));
    }

    @Test
    void deepNestingIsRefusedWithoutOverflow() {
        for (String deep : List.of(
                "{{ " + "(".repeat(5000) + "1" + ")".repeat(5000) + " }}",
                "{{ " + "not ".repeat(5000) + "1 }}",
                "{{ " + "-".repeat(5000) + "1 }}",
                "{{ 1" + " + 1".repeat(5000) + " }}",
                "{{ x" + ".a".repeat(5000) + " }}",
                "{{ x" + " | trim".repeat(5000) + " }}",
                "{% if 1 %}".repeat(5000) + "{% endif %}".repeat(5000))) {
            assertThatThrownBy(() -> render(deep))
                    .isInstanceOf(EspalierException.class)
                    .hasMessageContaining("more than");
        }
    }

    @Test
    void deeplyNestedValuesAreRefusedWithoutOverflow() {
        Object nested = "x";
        for (int i = 0; i < 200_000; i++) {
            nested = List.of(nested);
        }
        Map<String, Object> variables = new HashMap<>();
        variables.put("x", nested);
        assertThatThrownBy(() -> Jinja.parse("{{ x }}").render(variables, Clock.systemUTC()))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("nested too deeply");
    }

    @Test
    void aTemplateChangesNothingItIsGiven() {
        List<Object> list = new ArrayList<>(List.of(1, 2));
        Map<String, Object> variables = new HashMap<>(Map.of("l", list));
        Jinja.parse("{% set l = l + [3] %}{{ l }}").render(variables, Clock.systemUTC());
        assertThat(list).containsExactly(1, 2);
        assertThat(variables).containsOnlyKeys("l");
    }

    @Test
    void objectsOfOtherKindsAreRefused() {
        assertThatThrownBy(() -> Jinja.parse("{{ x }}").render(Map.of("x", new StringBuilder("a")), Clock.systemUTC()))
                .isInstanceOf(EspalierException.class)
                .hasMessageContaining("a template cannot read a StringBuilder");
    }

    @Test
    void oneTemplateServesManyThreads() {
        Jinja template = Jinja.parse(
                "{% set ns = namespace(x=0) %}{% for i in range(n) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}");
        assertThat(IntStream.range(0, 200)
                        .parallel()
                        .mapToObj(n -> template.render(Map.of("n", n), Clock.systemUTC())
                                .text()))
                .isEqualTo(IntStream.range(0, 200)
                        .mapToObj(n -> String.valueOf(n * (n - 1) / 2))
                        .toList());
    }
}
