package dev.espalier.recipe;

import dev.espalier.model.Pretrained;
import dev.espalier.text.Tokenizer;

/** The token that fills up rows. */
final class PadId {

    private PadId() {}

    /** The model's, the tokenizer's, else EOS or 0: it reaches no result. */
    static int of(Pretrained pretrained) {
        Integer configured = pretrained.model().config().padTokenId();
        if (configured != null && configured >= 0) {
            return configured;
        }
        Tokenizer tokenizer = pretrained.tokenizer();
        Integer pad = tokenizer.id(tokenizer.special().pad());
        Integer eos = tokenizer.id(tokenizer.special().eos());
        return pad != null ? pad : eos != null ? eos : 0;
    }
}
