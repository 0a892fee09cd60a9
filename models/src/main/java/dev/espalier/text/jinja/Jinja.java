package dev.espalier.text.jinja;

import dev.espalier.EspalierException;
import java.time.Clock;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * A parsed chat template.
 *
 * <p>Renders as Python's jinja2 3.1 does in transformers' environment: {@code trim_blocks}, {@code lstrip_blocks}, loop
 * controls, the immutable sandbox, {@code tojson} without HTML escapes, {@code raise_exception}, {@code strftime_now} and
 * {@code {% generation %}}. Safe on templates from anywhere: no reflection, and loops, output, macro depth and nesting
 * are bounded. Immutable, for any thread.
 */
public final class Jinja {

    /** What a {@code {% generation %}} block wrote: chars of the text, the end excluded. */
    public record Block(int start, int end) {}

    /**
     * A rendering.
     *
     * @param text the whole
     * @param generated the generation blocks written straight to the page, in order
     */
    public record Result(String text, List<Block> generated) {
        public Result {
            generated = List.copyOf(generated);
        }
    }

    private final Statement.Body body;

    private Jinja(Statement.Body body) {
        this.body = body;
    }

    /** @throws EspalierException naming the line of the first mistake */
    public static Jinja parse(String source) {
        return new Jinja(guarded(() -> Parser.parse(source)));
    }

    /**
     * Renders the template.
     *
     * @param variables strings, numbers, booleans, nulls, lists and maps
     * @param clock what {@code strftime_now} reads
     * @throws EspalierException naming the template's line, for what fails in it or what it refuses by
     *     {@code raise_exception}
     */
    public Result render(Map<String, ? extends @Nullable Object> variables, Clock clock) {
        return guarded(() -> {
            Map<String, Object> values = new LinkedHashMap<>();
            variables.forEach((name, value) -> values.put(name, Py.of(value)));
            Env env = new Env(values, clock);
            body.run(env);
            return env.result();
        });
    }

    private static <T> T guarded(Supplier<T> action) {
        try {
            return action.get();
        } catch (Fault fault) {
            throw new EspalierException(
                    fault.line() > 0
                            ? "chat template, line %d: %s".formatted(fault.line(), fault.getMessage())
                            : "chat template: " + fault.getMessage(),
                    fault);
        } catch (StackOverflowError e) {
            throw new EspalierException("chat template: its values or tags are nested too deeply", e);
        } catch (ArithmeticException e) {
            throw new EspalierException("chat template: a number is too large", e);
        }
    }
}
