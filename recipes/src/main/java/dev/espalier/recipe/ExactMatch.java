package dev.espalier.recipe;

import dev.espalier.EspalierException;
import dev.espalier.data.Example;
import dev.espalier.data.Turn;
import dev.espalier.model.GenerationConfig;
import dev.espalier.model.Pretrained;
import dev.espalier.model.TextGenerator;
import dev.espalier.tensor.Seed;
import dev.espalier.text.ChatTemplate;
import dev.espalier.text.Tokenizer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Whether a language model writes exactly the answer: greedily, white space at both ends aside.
 *
 * <p>Of a conversation the last turn is the answer and all before it the prompt; of a prompt with completion, the completion.
 */
public final class ExactMatch {

    private ExactMatch() {}

    /**
     * Lets a model answer.
     *
     * @param template for conversations, or null where there are none
     * @param examples conversations that end with the assistant's turn, or prompts with completions
     * @param maxNewTokens tokens of an answer at most, at least 1; a longer one is cut and so, as a rule, wrong
     * @return of each example, whether its answer is right
     */
    public static List<Boolean> of(
            Pretrained pretrained, @Nullable ChatTemplate template, List<Example> examples, int maxNewTokens) {
        GenerationConfig config = Conversation.withEos(
                        pretrained.generation().greedy().withRepetitionPenalty(1), pretrained.tokenizer())
                .withMaxNewTokens(maxNewTokens);
        boolean training = pretrained.model().isTraining();
        pretrained.model().train(false);
        try {
            List<Boolean> right = new ArrayList<>();
            for (Example example : examples) {
                right.add(answer(pretrained, prompt(pretrained.tokenizer(), template, example), config)
                        .strip()
                        .equals(wanted(example).strip()));
            }
            return right;
        } finally {
            pretrained.model().train(training);
        }
    }

    /** The share of right ones. */
    public static double share(List<Boolean> right) {
        return right.stream().mapToDouble(r -> r ? 1 : 0).average().orElseThrow();
    }

    private static String answer(Pretrained pretrained, int[] prompt, GenerationConfig config) {
        TextGenerator.Generated generated =
                new TextGenerator(pretrained.causalLm()).generate(prompt, config, new Seed(0), id -> true);
        return pretrained
                .tokenizer()
                .decode(generated.ids().stream().mapToInt(Integer::intValue).toArray(), true);
    }

    private static int[] prompt(Tokenizer tokenizer, @Nullable ChatTemplate template, Example example) {
        if (example instanceof Example.Completion completion) {
            return tokenizer.encode(completion.prompt(), true);
        }
        if (example instanceof Example.Chat chat && template != null) {
            List<Map<String, Object>> turns = chat
                    .turns()
                    .subList(0, chat.turns().size() - 1)
                    .stream()
                    .map(Turn::toMap)
                    .toList();
            return tokenizer.encode(
                    template.render(turns, ChatTemplate.Options.DEFAULT.withGenerationPrompt(true)), false);
        }
        throw unanswered(example);
    }

    private static String wanted(Example example) {
        if (example instanceof Example.Completion completion) {
            return completion.completion();
        }
        if (example instanceof Example.Chat chat) {
            return chat.turns().get(chat.turns().size() - 1).content();
        }
        throw unanswered(example);
    }

    private static EspalierException unanswered(Example example) {
        return new EspalierException(
                "%s asks nothing that has one right answer; exact_match needs prompts with completions, or conversations for a model with a chat template"
                        .formatted(example.source()));
    }
}
