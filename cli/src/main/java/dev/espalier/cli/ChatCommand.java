package dev.espalier.cli;

import dev.espalier.EspalierException;
import dev.espalier.model.GenerationConfig;
import dev.espalier.model.Purpose;
import dev.espalier.recipe.Conversation;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.tensor.Seed;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** A conversation with a language model. */
@Command(
        name = "chat",
        description = "Talks with a model; /clear begins anew, /exit ends.",
        footer = {"", "Example:  espalier chat --adapter out/chat"})
final class ChatCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Mixin
    private Sampling sampling = new Sampling();

    @Option(names = "--system", paramLabel = "TEXT", description = "the system message")
    private @Nullable String system;

    @Override
    public Integer call() {
        try (LoadedModel loaded = choice.open(Purpose.causalLm())) {
            Conversation conversation = new Conversation(loaded, system, false);
            GenerationConfig config = sampling.over(loaded.pretrained().generation());
            terminal.line(
                    "%s; /clear begins anew, /exit ends.",
                    loaded.pretrained().origin().name());
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (long turn = 0; ; turn++) {
                terminal.out().print("> ");
                terminal.out().flush();
                String said = in.readLine();
                if (said == null || said.strip().equals("/exit")) {
                    terminal.out().println();
                    return Main.OK;
                } else if (said.strip().equals("/clear")) {
                    conversation = new Conversation(loaded, system, false);
                } else if (!said.isBlank()) {
                    answer(conversation, said, config, new Seed(sampling.seed()).at(turn));
                }
            }
        } catch (IOException e) {
            throw new EspalierException("standard input cannot be read: " + e.getMessage(), e);
        }
    }

    private void answer(Conversation conversation, String said, GenerationConfig config, Seed seed) {
        conversation.say(said, config, seed, piece -> {
            terminal.out().print(piece);
            terminal.out().flush();
        });
        terminal.out().println();
    }
}
