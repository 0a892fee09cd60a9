package dev.espalier.cli;

import dev.espalier.model.Purpose;
import dev.espalier.model.TextGenerator;
import dev.espalier.recipe.Conversation;
import dev.espalier.recipe.LoadedModel;
import dev.espalier.tensor.Seed;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** Text from a language model. */
@Command(
        name = "generate",
        description = "Answers a prompt; a model with a chat template takes it as a user's message.",
        footer = {
            "",
            "Example:  espalier generate --adapter out/chat \"What is the capital of France?\"",
            "          espalier generate --model model.gguf --raw \"Once upon a time\""
        })
final class GenerateCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private ModelChoice choice = new ModelChoice();

    @Mixin
    private Sampling sampling = new Sampling();

    @Parameters(paramLabel = "PROMPT", description = "what to answer")
    private String prompt = "";

    @Option(names = "--system", paramLabel = "TEXT", description = "the system message")
    private @Nullable String system;

    @Option(names = "--raw", description = "continue the prompt as it stands, without chat template")
    private boolean raw;

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        try (LoadedModel loaded = choice.open(Purpose.causalLm())) {
            Conversation conversation = new Conversation(loaded, system, raw);
            long start = System.nanoTime();
            Conversation.Answer answer = conversation.say(
                    prompt, sampling.over(loaded.pretrained().generation()), new Seed(sampling.seed()), piece -> {
                        if (!json) {
                            terminal.out().print(piece);
                            terminal.out().flush();
                        }
                    });
            double seconds = (System.nanoTime() - start) / 1e9;
            if (json) {
                Map<String, Object> object = new LinkedHashMap<>();
                object.put("text", answer.text());
                object.put("tokens", answer.tokens());
                object.put("finish", answer.finish().name().toLowerCase(Locale.ROOT));
                object.put("tokens_per_second", answer.tokens() / seconds);
                terminal.json(object);
            } else {
                terminal.out().println();
                if (answer.finish() == TextGenerator.Finish.LENGTH) {
                    terminal.err()
                            .println("(stopped after " + answer.tokens()
                                    + " tokens; --max-new-tokens raises the limit)");
                }
            }
        }
        return Main.OK;
    }
}
