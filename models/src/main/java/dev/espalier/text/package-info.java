/**
 * Text in and out: tokenizers, special tokens, and chat templates.
 *
 * <p>{@link dev.espalier.text.Tokenizer} turns text into ids and back, from a {@code tokenizer.json} or from GGUF
 * metadata. {@link dev.espalier.text.ChatTemplate} renders a conversation with the model's own Jinja template and says
 * which characters the assistant wrote.
 *
 * <p>Templates run in our own interpreter because com.hubspot.jinjava 2.8.1, tried on the constructs of public
 * templates, lacks Python's string methods, negative slice steps, namespace assignment and Python's way of printing
 * values, and brings 27 further jars. Ours knows strings, numbers, lists and maps and nothing else, so a template can
 * reach no class, file or clock but the one it is given.
 */
@NullMarked
package dev.espalier.text;

import org.jspecify.annotations.NullMarked;
