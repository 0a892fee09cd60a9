/**
 * Tensors, their lifetime, seeded randomness and linear algebra over libtorch.
 *
 * <p>The only package that imports JavaCPP. Native memory belongs to the innermost open {@code Scope} of the thread, which frees it when closed; what must live longer is promoted or kept.
 */
@NullMarked
package dev.espalier.tensor;

import org.jspecify.annotations.NullMarked;
