/**
 * The file formats of the field, read with suspicion and written atomically.
 *
 * <p>Tensors: {@link dev.espalier.io.Safetensors}, {@link dev.espalier.io.Gguf} and {@link dev.espalier.io.Onnx} each open as
 * a {@link dev.espalier.io.TensorSource}. Settings: {@link dev.espalier.io.Json} and, field by field,
 * {@link dev.espalier.io.Fields}. Every write goes through {@link dev.espalier.io.AtomicFile}. Nothing a header claims is
 * believed, or allocated, before it was checked against the file.
 */
@NullMarked
package dev.espalier.io;

import org.jspecify.annotations.NullMarked;
