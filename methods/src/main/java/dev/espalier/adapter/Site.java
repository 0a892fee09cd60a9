package dev.espalier.adapter;

import dev.espalier.nn.Layer;

/**
 * A layer that an adapter is for.
 *
 * @param path its place in the network: {@code model.layers.0.self_attn.q_proj}
 */
public record Site(String path, Layer layer) {}
