package dev.espalier.adapter;

import dev.espalier.io.Fields;
import dev.espalier.train.ParameterGroup;
import java.util.List;

/** A method that only says which parameters are trained at which rate. */
public interface OptimizerGroups extends Method {

    /**
     * Groups of all that an adapted model trains.
     *
     * @param settings the method's own
     * @param learningRate the rate that the groups' factors multiply
     */
    List<ParameterGroup> groups(AdaptedModel model, Fields settings, double learningRate);
}
