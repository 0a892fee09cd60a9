package dev.espalier.cli;

import dev.espalier.adapter.Plan;
import dev.espalier.recipe.Forecast;
import dev.espalier.recipe.Run;
import dev.espalier.tensor.Machine;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** What a recipe would do, without doing it. */
@Command(
        name = "plan",
        description = "Shows each layer that a recipe would touch, the share that trains, and a forecast of memory.",
        footer = {"", "Example:  espalier plan tickets.yaml"})
final class PlanCommand implements Callable<Integer> {

    @Mixin
    private Terminal terminal = new Terminal();

    @Mixin
    private RecipeChoice choice = new RecipeChoice();

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        try (Run run = Run.prepare(choice.read(), terminal.loadOptions())) {
            Plan plan = run.plan();
            Forecast forecast = run.forecast();
            if (json) {
                terminal.json(facts(run, plan, forecast));
                return Main.OK;
            }
            terminal.line("%s", run.splits().train().summary());
            terminal.line("%s", run.encodings().summary());
            terminal.line("");
            List<List<String>> rows = new ArrayList<>();
            rows.add(List.of("layer", "kind", "shape", "trained"));
            for (Plan.Touched layer : plan.layers()) {
                rows.add(List.of(
                        layer.path(),
                        layer.kind(),
                        layer.in() == 0 ? "" : "[" + layer.out() + ", " + layer.in() + "]",
                        Terminal.count(layer.parameters())));
            }
            terminal.table(rows);
            terminal.line("");
            terminal.line(
                    "trains %,d of %,d parameters (%.2f %%)",
                    plan.trainableParameters(),
                    plan.networkParameters(),
                    100.0 * plan.trainableParameters() / plan.networkParameters());
            terminal.line("");
            terminal.line("memory at the peak, in a step of %d rows of %d tokens:", forecast.rows(), forecast.width());
            terminal.table(List.of(
                    List.of("  Java, libtorch, data, weights", Terminal.bytes(forecast.present())),
                    List.of("  gradients", Terminal.bytes(forecast.gradients())),
                    List.of("  optimizer", Terminal.bytes(forecast.optimizer())),
                    List.of(
                            forecast.recomputes() ? "  activations, layers computed again" : "  activations",
                            Terminal.bytes(forecast.activations())),
                    List.of("  logits", Terminal.bytes(forecast.logits())),
                    List.of("  forecast", Terminal.bytes(forecast.total()))));
            long total = Machine.totalBytes();
            if (total > 0 && forecast.total() > total) {
                terminal.line(
                        "this machine has %s: lower train.batch or task.maxLength%s",
                        Terminal.bytes(total),
                        forecast.recomputes() ? "" : ", or set train.gradientCheckpointing to always");
            }
        }
        return Main.OK;
    }

    private static Map<String, Object> facts(Run run, Plan plan, Forecast forecast) {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("examples", run.encodings().items().size());
        facts.put(
                "layers",
                plan.layers().stream()
                        .map(l -> Map.of(
                                "path", l.path(),
                                "kind", l.kind(),
                                "shape", List.of(l.out(), l.in()),
                                "parameters", l.parameters()))
                        .toList());
        facts.put("trainable_parameters", plan.trainableParameters());
        facts.put("parameters", plan.networkParameters());
        facts.put("memory_present", forecast.present());
        facts.put("memory_gradients", forecast.gradients());
        facts.put("memory_optimizer", forecast.optimizer());
        facts.put("memory_activations", forecast.activations());
        facts.put("memory_logits", forecast.logits());
        facts.put("gradient_checkpointing", forecast.recomputes());
        facts.put("memory_total", forecast.total());
        return facts;
    }
}
