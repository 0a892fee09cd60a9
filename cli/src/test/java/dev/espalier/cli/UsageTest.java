package dev.espalier.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import picocli.CommandLine;

/** What a person sees who does not know the commands yet. */
class UsageTest {

    @ParameterizedTest
    @ValueSource(
            strings = {
                "quickstart",
                "train",
                "plan",
                "evaluate",
                "compare",
                "predict",
                "generate",
                "chat",
                "inspect",
                "compress",
                "merge",
                "export",
                "diagnose",
                "adapt",
                "methods",
                "doctor",
                "probe",
                "federate",
                "unlearn"
            })
    void everyCommandShowsAnExampleInItsHelp(String command) {
        Cli.Result result = Cli.run(command, "--help");
        assertThat(result.code()).isZero();
        assertThat(result.out()).contains("Example:  espalier " + command).contains("--debug");
    }

    @Test
    void helpListsEveryCommand() {
        Cli.Result result = Cli.run("--help");
        assertThat(result.code()).isZero();
        Map<String, CommandLine> commands = Main.commandLine().getSubcommands();
        assertThat(commands).hasSize(19);
        assertThat(result.out()).contains(commands.keySet()).contains("Start with:  espalier quickstart");
    }

    @Test
    void wrongUsageExitsWithTwoAndPointsToHelp() {
        assertThat(Cli.run().code()).isEqualTo(2);
        Cli.Result unknown = Cli.run("trian");
        assertThat(unknown.code()).isEqualTo(2);
        assertThat(unknown.err()).contains("trian").contains("train");
        Cli.Result option = Cli.run("probe", "--model", "minilm", "--ids", "1,2");
        assertThat(option.code()).isEqualTo(2);
        assertThat(option.err()).contains("--out").contains("espalier probe --help");
        Cli.Result nothing = Cli.run("predict", "a text");
        assertThat(nothing.code()).isEqualTo(2);
        assertThat(nothing.err()).contains("name a model with --model or an adapter with --adapter");
    }

    @Test
    void doctorTellsWhatAProgramCanRead() {
        Cli.Result result = Cli.run("doctor", "--json");
        assertThat(result.code()).isZero();
        assertThat(result.out()).contains("\"libtorch\":\"2.", "\"threads\":", "\"memory\":", "\"warnings\":[");
        assertThat(Cli.run("doctor").out()).contains("libtorch", "OMP_WAIT_POLICY");
    }

    @Test
    void methodsNamesPapersAndSettings() {
        assertThat(Cli.run("methods").out()).contains("lora", "dora", "pissa", "arXiv:2106.09685");
        assertThat(Cli.run("methods", "dora").out()).contains("arXiv:2402.09353", "lora_alpha");
        Cli.Result unknown = Cli.run("methods", "dorra");
        assertThat(unknown.code()).isEqualTo(1);
        assertThat(unknown.complaint()).isEqualTo("espalier: there is no method dorra; did you mean dora?");
    }
}
