package dev.espalier.cli;

import dev.espalier.EspalierException;
import dev.espalier.tensor.TensorException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.UnmatchedArgumentException;

/**
 * The {@code espalier} command.
 *
 * <p>Exit codes: 0 done, 1 failed (one sentence on standard error says why), 2 wrong usage.
 */
@Command(
        name = "espalier",
        description = "Adapts large pretrained networks on the JVM by training few parameters.",
        synopsisSubcommandLabel = "COMMAND",
        versionProvider = Main.Version.class,
        mixinStandardHelpOptions = true,
        subcommands = {
            QuickstartCommand.class,
            TrainCommand.class,
            PlanCommand.class,
            EvaluateCommand.class,
            CompareCommand.class,
            PredictCommand.class,
            GenerateCommand.class,
            ChatCommand.class,
            InspectCommand.class,
            CompressCommand.class,
            MergeCommand.class,
            ExportCommand.class,
            DiagnoseCommand.class,
            AdaptCommand.class,
            MethodsCommand.class,
            DoctorCommand.class,
            ProbeCommand.class,
            FederateCommand.class,
            UnlearnCommand.class
        },
        footer = {
            "",
            "Start with:  espalier quickstart",
            "Then:        espalier COMMAND --help  shows what a command takes, with an example."
        })
public final class Main {

    /** Done. */
    static final int OK = 0;

    /** The work failed; standard error says why. */
    static final int FAILED = 1;

    /** The command was written wrongly. */
    static final int USAGE = 2;

    private Main() {}

    /** Runs a command and ends the process with its exit code. */
    public static void main(String[] args) {
        PrintWriter out = new PrintWriter(System.out, true, StandardCharsets.UTF_8);
        PrintWriter err = new PrintWriter(System.err, true, StandardCharsets.UTF_8);
        Interruption.watch();
        int code = run(out, err, args);
        out.flush();
        err.flush();
        Interruption.finished();
        System.exit(code);
    }

    /** Runs a command; for tests too, in-process. */
    static int run(PrintWriter out, PrintWriter err, String... args) {
        Locale.setDefault(Locale.ROOT); // figures read the same everywhere, and programs can parse them
        return commandLine().setOut(out).setErr(err).execute(args);
    }

    static CommandLine commandLine() {
        return new CommandLine(new Main())
                .setUsageHelpAutoWidth(false)
                .setUsageHelpWidth(100)
                .setCaseInsensitiveEnumValuesAllowed(true)
                .setParameterExceptionHandler(Main::wrongUsage)
                .setExecutionExceptionHandler(Main::failed);
    }

    private static int wrongUsage(ParameterException fault, String[] args) {
        PrintWriter err = fault.getCommandLine().getErr();
        err.println("espalier: " + sentence(fault));
        if (!UnmatchedArgumentException.printSuggestions(fault, err)) {
            err.println("See: " + fault.getCommandLine().getCommandSpec().qualifiedName() + " --help");
        }
        return USAGE;
    }

    private static int failed(Exception fault, CommandLine commandLine, ParseResult parsed) {
        PrintWriter err = commandLine.getErr();
        boolean known = fault instanceof EspalierException || fault instanceof TensorException;
        err.println("espalier: "
                + (known
                        ? sentence(fault)
                        : "unexpected fault, please report it: %s (%s); --debug shows where"
                                .formatted(sentence(fault), fault.getClass().getSimpleName())));
        if (commandLine.getParseResult().hasMatchedOption("--debug")) {
            fault.printStackTrace(err);
        }
        return FAILED;
    }

    private static String sentence(Exception fault) {
        String message = fault.getMessage();
        return message == null ? fault.getClass().getSimpleName() : message;
    }

    /** The version of this build. */
    static String version() {
        String version = Main.class.getPackage().getImplementationVersion();
        return version == null ? "development build" : version;
    }

    static final class Version implements IVersionProvider {
        @Override
        public String[] getVersion() {
            return new String[] {"espalier " + version()};
        }
    }
}
