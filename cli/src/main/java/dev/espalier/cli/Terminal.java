package dev.espalier.cli;

import dev.espalier.io.Json;
import dev.espalier.model.LoadOptions;
import java.io.Console;
import java.io.PrintWriter;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** What every command has: where to print, and {@code --debug}. */
final class Terminal {

    @Spec(Spec.Target.MIXEE)
    private @Nullable CommandSpec command;

    @Option(names = "--debug", description = "on failure, show where in the code it happened")
    @SuppressWarnings("unused") // Main asks the parse result
    private boolean debug;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    @SuppressWarnings("unused") // picocli answers it
    private boolean help;

    /** Results. */
    PrintWriter out() {
        return java.util.Objects.requireNonNull(command).commandLine().getOut();
    }

    /** Progress and remarks, so that results can be piped. */
    PrintWriter err() {
        return java.util.Objects.requireNonNull(command).commandLine().getErr();
    }

    /** Prints a remark that is no result. */
    void note(String text) {
        err().println(text);
    }

    /** A view of training: a bar on a terminal, else a line every so many steps. */
    ProgressView progress(long every) {
        return new ProgressView(err(), isTerminal(), every);
    }

    /** A view of a study: a bar on a terminal, else a line for each process that ends. */
    StudyView studyView() {
        return new StudyView(err(), isTerminal());
    }

    /** Whether a person looks on. From Java 22 there is a console in any case, which knows whether it is one. */
    @SuppressWarnings("SystemConsoleNull") // up to Java 21 null means just that
    private static boolean isTerminal() {
        Console console = System.console();
        if (console == null) {
            return false;
        }
        try {
            return (boolean) Console.class.getMethod("isTerminal").invoke(console);
        } catch (ReflectiveOperationException e) {
            return true;
        }
    }

    /** Loading as usual, with downloads told on standard error. */
    LoadOptions loadOptions() {
        return LoadOptions.defaults().withProgress(Downloads.to(err()));
    }

    /** Prints one JSON object on a line. */
    void json(Map<String, ?> object) {
        out().println(Json.text(object));
    }

    /** Prints a line of results. */
    void line(String format, @Nullable Object... arguments) {
        out().println(arguments.length == 0 ? format : String.format(Locale.ROOT, format, arguments));
    }

    /** Prints rows in columns; those whose cells are all figures are set flush right. */
    void table(List<List<String>> rows) {
        int columns = rows.stream().mapToInt(List::size).max().orElse(0);
        int[] widths = new int[columns];
        boolean[] figures = new boolean[columns];
        java.util.Arrays.fill(figures, true);
        for (int r = 0; r < rows.size(); r++) {
            for (int c = 0; c < rows.get(r).size(); c++) {
                String cell = rows.get(r).get(c);
                widths[c] = Math.max(widths[c], cell.length());
                figures[c] &= r == 0 || cell.isEmpty() || Character.isDigit(cell.charAt(0));
            }
        }
        for (List<String> row : rows) {
            StringBuilder line = new StringBuilder();
            for (int c = 0; c < row.size(); c++) {
                String gap = " ".repeat(widths[c] - row.get(c).length());
                line.append(c == 0 ? "" : "  ").append(figures[c] ? gap + row.get(c) : row.get(c) + gap);
            }
            out().println(line.toString().stripTrailing());
        }
    }

    /** Bytes in the unit that suits them. */
    static String bytes(long bytes) {
        if (bytes < 0) {
            return "unknown";
        }
        String[] units = {"B", "KiB", "MiB", "GiB", "TiB"};
        double value = bytes;
        int unit = 0;
        while (value >= 1024 && unit < units.length - 1) {
            value /= 1024;
            unit++;
        }
        return String.format(Locale.ROOT, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    }

    /** A count with separators. */
    static String count(long count) {
        return String.format(Locale.ROOT, "%,d", count);
    }
}
