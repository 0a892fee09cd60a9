package dev.espalier.bench;

import dev.espalier.tensor.Machine;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Work that two sides do in turn, and what of their answers is compared.
 *
 * @param name of its file of results
 * @param group of the table it stands in
 * @param what it is, for the table
 * @param first whose numbers are divided
 * @param second whose numbers they are divided by
 * @param compared numbers of both sides' JSON
 * @param leftOut why it cannot run here, or null
 */
record Case(
        String name,
        Group group,
        String what,
        Side first,
        Side second,
        List<Measure> compared,
        @Nullable String leftOut) {

    /** Copies. */
    Case {
        compared = List.copyOf(compared);
    }

    /** The same, left out for a reason unless there is none. */
    Case unless(boolean hindered, String reason) {
        return hindered ? new Case(name, group, what, first, second, compared, reason) : this;
    }

    /** The tables of {@code docs/performance.md}. */
    enum Group {
        TRAINING("Training, beside HF PEFT", "Espalier", "PEFT"),
        USE("Generation and start, beside transformers", "Espalier", "peer"),
        ITSELF("Espalier beside itself", "A", "B");

        final String title;
        final String first;
        final String second;

        Group(String title, String first, String second) {
            this.title = title;
            this.first = first;
            this.second = second;
        }
    }

    /**
     * One of the two.
     *
     * @param name in the file of results
     * @param command that is started, with one more argument: the work as a JSON object
     * @param work what the program is to do
     */
    record Side(String name, List<String> command, Map<String, Object> work) {

        /** A program of this module's in a Java of its own. */
        static Side java(String name, Class<?> program, Map<String, Object> work, String... options) {
            List<String> command = new ArrayList<>(Child.java(options));
            command.add(program.getName());
            return new Side(name, command, work);
        }

        /** A script of {@code bench/peers}, by the interpreter that PYTHON names. */
        static Side python(String name, String script, Map<String, Object> work) {
            String interpreter = System.getenv().getOrDefault("PYTHON", "python3");
            return new Side(
                    name, List.of(interpreter, Path.of("bench/peers", script).toString()), work);
        }
    }

    /**
     * A number that both sides tell.
     *
     * @param key in their JSON
     * @param unit for the table
     * @param least ratio that reaches the goal; 0 for none
     * @param most ratio that reaches the goal; infinite for none
     */
    record Measure(String key, String unit, double least, double most) {

        static final String SPEED = "tokens_per_s";
        static final String MEMORY = "peak_rss_mib";

        /** Tokens per second, padding not counted. */
        static Measure speed(double least) {
            return new Measure(SPEED, "tokens/s", least, Double.POSITIVE_INFINITY);
        }

        /** The process's peak resident memory. */
        static Measure memory(double most) {
            return new Measure(MEMORY, "peak MiB", 0, most);
        }

        boolean reached(double ratio) {
            return ratio >= least && ratio <= most;
        }

        String goal() {
            if (least > 0 && most < Double.POSITIVE_INFINITY) {
                return String.format(Locale.ROOT, "%.2f to %.2f", least, most);
            }
            return least > 0 ? ">= " + least : most < Double.POSITIVE_INFINITY ? "<= " + most : "";
        }
    }

    /** Threads that each side computes with: THREADS, or one a core. */
    static int threads() {
        String asked = System.getenv("THREADS");
        return asked == null ? Machine.physicalCores() : Integer.parseInt(asked);
    }
}
