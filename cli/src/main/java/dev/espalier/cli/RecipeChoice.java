package dev.espalier.cli;

import dev.espalier.recipe.Recipe;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** Which recipe a command works on: a file or a name, and {@code --set}, {@code --out}. */
final class RecipeChoice {

    @Parameters(
            index = "0",
            paramLabel = "RECIPE",
            description =
                    "a YAML file, or the name of a method whose recipe comes with Espalier (see espalier methods)")
    private String recipe = "";

    @Option(
            names = "--set",
            paramLabel = "KEY=VALUE",
            description =
                    "a setting in place of the recipe's, such as train.learningRate=1e-4; may be given several times")
    private List<String> settings = new ArrayList<>();

    @Option(names = "--out", paramLabel = "DIR", description = "the folder for results, in place of the recipe's")
    private @Nullable Path out;

    Recipe read() {
        Recipe read = Recipe.read(recipe, settings);
        return out == null ? read : read.withOut(out);
    }
}
