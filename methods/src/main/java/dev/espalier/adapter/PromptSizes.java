package dev.espalier.adapter;

import static dev.espalier.Check.check;

import dev.espalier.io.Fields;
import dev.espalier.nn.Parameter;
import dev.espalier.tensor.DType;
import dev.espalier.tensor.Tensor;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What PEFT writes about the network into a prompt's configuration; null where nothing is said.
 *
 * @param width [token_dim] of a row
 * @param layers [num_layers] of the network
 * @param heads [num_attention_heads] that the width is made of
 */
record PromptSizes(
        @Nullable Integer width,
        @Nullable Integer layers,
        @Nullable Integer heads) {

    static final PromptSizes NONE = new PromptSizes(null, null, null);

    static final Map<String, String> MEANINGS = Map.of(
            "num_virtual_tokens", "places n, at least 1",
            "token_dim", "width of a row; the network's",
            "num_layers", "layers of the network; the network's",
            "num_attention_heads", "heads that the width is made of; the network's",
            "num_transformer_submodules", "1, for there is one network");

    static void checkTokens(int tokens) {
        check(tokens >= 1, "num_virtual_tokens must be at least 1, found %d; try 20", tokens);
    }

    static PromptSizes read(Fields f) {
        int networks = f.integer("num_transformer_submodules", 1);
        check(
                networks == 1,
                "num_transformer_submodules is %d: prompts of encoders with decoders cannot be used here; leave it at 1",
                networks);
        return new PromptSizes(
                f.orNull("token_dim", Fields::integer),
                f.orNull("num_layers", Fields::integer),
                f.orNull("num_attention_heads", Fields::integer));
    }

    Map<String, @Nullable Object> write(int tokens) {
        Map<String, @Nullable Object> json = new LinkedHashMap<>();
        json.put("num_virtual_tokens", tokens);
        json.put("token_dim", width);
        json.put("num_layers", layers);
        json.put("num_attention_heads", heads);
        json.put("num_transformer_submodules", 1);
        return json;
    }

    /** These of a network, with which what is given must agree. */
    PromptSizes against(int itsWidth, int itsLayers, int itsHeads) {
        same("token_dim", width, itsWidth);
        same("num_layers", layers, itsLayers);
        same("num_attention_heads", heads, itsHeads);
        return new PromptSizes(itsWidth, itsLayers, itsHeads);
    }

    private static void same(String name, @Nullable Integer given, int own) {
        check(
                given == null || given == own,
                "%s is %d, and this network's is %d; leave it out, or use the network that the prompt was made for",
                name,
                given,
                own);
    }

    /** A parameter that trains where the network is: float32, or float64 if the network is. */
    static Parameter trained(Tensor start, Tensor like) {
        DType wide = like.dtype() == DType.FLOAT64 ? DType.FLOAT64 : DType.FLOAT32;
        Parameter p = new Parameter(start.to(wide).to(like.device()));
        p.trainable(true);
        return p;
    }
}
