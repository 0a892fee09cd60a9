package dev.espalier.adapter;

import dev.espalier.nn.Module;
import dev.espalier.nn.Parameter;
import java.util.Map;

/** What stands on a network as a whole, not on its layers: a method's parameters and where they go. */
public interface NetworkAdapter {

    /** All that is saved, by its name in the file, which nothing stands before. */
    Map<String, Parameter> parameters();

    /** Puts it on the network, or takes it off. */
    void apply(Module network, boolean on);
}
