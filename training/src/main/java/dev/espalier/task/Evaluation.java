package dev.espalier.task;

import dev.espalier.data.Collator;
import dev.espalier.nn.Module;
import dev.espalier.tensor.Grad;
import dev.espalier.tensor.Scope;
import java.util.LinkedHashMap;
import java.util.Map;

/** Judges a model on data. */
public final class Evaluation {

    private Evaluation() {}

    /**
     * Runs a task's evaluator over one pass of the data: no gradients, no dropout, the same order each time. Each part of
     * the model is then put back into the mode it was in.
     *
     * @return the evaluator, full
     */
    public static Evaluator run(Task task, Collator data) {
        Evaluator evaluator = task.evaluator();
        run(task, data, evaluator);
        return evaluator;
    }

    /** The same with an evaluator whose further results the caller wants, such as a confusion matrix. */
    public static void run(Task task, Collator data, Evaluator evaluator) {
        Map<Module, Boolean> modes = new LinkedHashMap<>();
        task.model().namedModules().values().forEach(module -> modes.put(module, module.isTraining()));
        task.model().train(false);
        try (Grad off = Grad.off()) {
            for (int i = 0; i < data.batches(0); i++) {
                try (Scope scope = Scope.open()) {
                    evaluator.add(data.batch(new Collator.Cursor(0, i)));
                }
            }
        } finally {
            modes.forEach(Module::train); // parents come before their parts, which may differ from them
        }
    }
}
