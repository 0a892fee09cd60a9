/**
 * What an adapter did to a network, measured on its weights.
 *
 * <p>{@link dev.espalier.diagnose.IntruderDimensions} counts the leading singular vectors that training brought and pretraining did
 * not know, and can scale them down. Every diagnosis fills the same {@link dev.espalier.diagnose.Report}.
 *
 * <p>To add one, implement {@link dev.espalier.diagnose.Diagnosis}, or {@link dev.espalier.diagnose.Diagnosis.Repair} if it can mend
 * what it finds, and name it in {@code META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.diagnose;

import org.jspecify.annotations.NullMarked;
