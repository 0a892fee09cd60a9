package dev.espalier;

import static com.tngtech.archunit.base.DescribedPredicate.not;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAnyPackage;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static com.tngtech.archunit.library.Architectures.layeredArchitecture;
import static com.tngtech.archunit.library.dependencies.SlicesRuleDefinition.slices;
import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.library.GeneralCodingRules;
import java.util.List;
import org.junit.jupiter.api.Test;

/** The house stands as it was drawn: floors use those below, never above. */
class ArchitectureTest {

    private static final JavaClasses CLASSES = new ClassFileImporter()
            .withImportOption(new ImportOption.DoNotIncludeTests())
            .importPackages("dev.espalier");

    @Test
    void everyFloorWasScanned() {
        for (String room : List.of(
                "tensor", "nn", "io", "model", "text", "data", "hub", "train", "task", "adapter", "recipe", "compare",
                "report", "cli")) {
            assertThat(CLASSES.stream().anyMatch(c -> c.getPackageName().equals("dev.espalier." + room)))
                    .as("classes found in dev.espalier.%s", room)
                    .isTrue();
        }
    }

    @Test
    void floorsUseOnlyThoseBelow() {
        layeredArchitecture()
                .consideringOnlyDependenciesInAnyPackage("dev.espalier..")
                .layer("core")
                .definedBy("dev.espalier", "..tensor..", "..nn..", "..io..")
                .layer("models")
                .definedBy("..model..", "..text..", "..data..", "..hub..")
                .layer("training")
                .definedBy("..train..", "..task..")
                .layer("methods")
                .definedBy(
                        "..adapter..",
                        "..init..",
                        "..rank..",
                        "..optim..",
                        "..sample..",
                        "..loss..",
                        "..compress..",
                        "..merge..",
                        "..federated..",
                        "..unlearn..",
                        "..diagnose..",
                        "..testtime..")
                .layer("recipes")
                .definedBy("..recipe..", "..compare..", "..report..")
                .layer("cli")
                .definedBy("..cli..")
                .whereLayer("cli")
                .mayNotBeAccessedByAnyLayer()
                .whereLayer("recipes")
                .mayOnlyBeAccessedByLayers("cli")
                .whereLayer("methods")
                .mayOnlyBeAccessedByLayers("recipes", "cli")
                .whereLayer("training")
                .mayOnlyBeAccessedByLayers("methods", "recipes", "cli")
                .whereLayer("models")
                .mayOnlyBeAccessedByLayers("training", "methods", "recipes", "cli")
                .check(CLASSES);
    }

    @Test
    void roomsFormNoCycles() {
        slices().matching("dev.espalier.(*)..").should().beFreeOfCycles().check(CLASSES);
    }

    @Test
    void theBindingsAreImportedInOnePackage() {
        noClasses()
                .that(not(resideInAnyPackage("dev.espalier.tensor")))
                .should()
                .dependOnClassesThat(resideInAnyPackage("org.bytedeco.."))
                .because("libtorch's bindings change between releases: only dev.espalier.tensor knows them")
                .check(CLASSES);
    }

    @Test
    void onlyTheCommandLineWritesToTheTerminal() {
        noClasses()
                .that(not(resideInAnyPackage("dev.espalier.cli..")))
                .should(GeneralCodingRules.ACCESS_STANDARD_STREAMS)
                .because("a library logs; its user decides what is printed")
                .check(CLASSES);
    }
}
