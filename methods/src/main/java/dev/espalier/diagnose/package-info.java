/**
 * What an adapter did to a network, measured on its weights or on texts.
 *
 * <p>{@link dev.espalier.diagnose.IntruderDimensions} counts the leading singular vectors that training brought and pretraining did
 * not know, and can scale them down. {@link dev.espalier.diagnose.LoraLimits} measures queries and keys on texts, and {@link
 * dev.espalier.diagnose.AttentionGradients} what their size would allow. Every diagnosis fills the same {@link dev.espalier.diagnose.Report}.
 *
 * <p>To add one, implement {@link dev.espalier.diagnose.Diagnosis}, or {@link dev.espalier.diagnose.Diagnosis.Repair} if it can mend
 * what it finds, and name it in {@code META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.diagnose;

import org.jspecify.annotations.NullMarked;
