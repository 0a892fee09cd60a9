/**
 * Text in and out: tokenizers, special tokens, and chat templates.
 *
 * <p>{@link dev.espalier.text.Tokenizer} turns text into ids and back, from a {@code tokenizer.json} or from GGUF
 * metadata. {@link dev.espalier.text.ChatTemplate} renders a conversation with the model's own Jinja template and says
 * which characters the assistant wrote.
 */
@NullMarked
package dev.espalier.text;

import org.jspecify.annotations.NullMarked;
