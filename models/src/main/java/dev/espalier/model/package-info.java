/**
 * Pretrained networks of the Hugging Face families, with their heads, loading, saving and generation.
 *
 * <p>A family is one file: {@link dev.espalier.model.Llama} (Llama, Mistral, Qwen2, Qwen3), {@link dev.espalier.model.Gpt2},
 * {@link dev.espalier.model.Bert} (BERT, RoBERTa). A {@link dev.espalier.model.Model} is a family's backbone under one of three
 * heads; the path of each parameter is its key in the checkpoint of the Hugging Face class of the same kind.
 * {@link dev.espalier.model.Models} loads and saves, {@link dev.espalier.model.TextGenerator} generates.
 *
 * <p>Letters of shape comments, everywhere: B sequences, T tokens of each, S tokens looked at (T plus those in a cache), D
 * width, H heads, K key-value heads, E width of a head, F inner width of the MLP, V vocabulary.
 *
 * <p>To add a family: its file with config, backbone and block, one constant of {@link dev.espalier.model.Family}, a golden
 * case in {@code tools/golden}.
 */
@NullMarked
package dev.espalier.model;

import org.jspecify.annotations.NullMarked;
