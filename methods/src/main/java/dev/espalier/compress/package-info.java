/**
 * Compression: cheaper values in place of a network's weights, and adapters that make up for the damage.
 *
 * <p>{@link dev.espalier.compress.RoundToNearest} and {@link dev.espalier.compress.Prune24} take each weight by itself, without
 * data. {@link dev.espalier.compress.Eora} compensates such a one without training, by what layers receive on calibration data:
 * minutes, and a plain LoRA. {@link dev.espalier.compress.LqLora} chooses codes and LoRA together, and the codes' widths under a
 * budget of bits. With either, training the adapter afterwards starts from less damage.
 *
 * <p>{@link dev.espalier.compress.Welore} makes pairs of factors of those weights that lose most of their rank at one common
 * threshold, and lets these alone train.
 *
 * <p>{@link dev.espalier.compress.Loram} leaves channels and heads out, so that an adapter trains on a smaller model; {@link
 * dev.espalier.compress.Cut} says what was kept, and puts the adapter back on the whole one.
 *
 * <p>The weights of the network are replaced by dense ones that hold the compressed values, so that everything else works as
 * before; methods whose values are codes ({@link dev.espalier.compress.Coded}) keep them packed in a file beside it.
 *
 * <p>To add one, implement {@link dev.espalier.compress.WeightCompressor} for what needs one weight at a time, else {@link
 * dev.espalier.compress.Compressor}, and name it in {@code META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.compress;

import org.jspecify.annotations.NullMarked;
