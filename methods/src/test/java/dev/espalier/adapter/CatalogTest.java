package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class CatalogTest {

    @Test
    void everyMethodIsFoundAndDescribed() {
        assertThat(Catalog.methods()).containsKeys("dora", "lora", "lora+", "olora", "pissa", "rslora", "adamw");
        Catalog.methods().forEach((name, method) -> {
            assertThat(method.about().citation()).as(name).containsPattern("arXiv:|20\\d\\d");
            assertThat(method.fields())
                    .allSatisfy(field -> assertThat(method.meanings())
                            .as(name + "." + field.name())
                            .containsKey(field.name()));
            assertThat(Catalog.describe(method))
                    .contains(name, method.about().formula().lines().findFirst().orElseThrow());
        });
    }

    @Test
    void settingsStandWithTheirDefaults() {
        assertThat(Catalog.describe(Catalog.method("lora")))
                .contains("  r                      integer, default 8")
                .contains("  lora_dropout           number, default 0.0");
        assertThat(Catalog.describe(Catalog.method("rslora")))
                .contains("use_rslora             true or false, default true");
    }

    @Test
    void unknownNamesAreAnsweredWithKnownOnes() {
        assertThatThrownBy(() -> Catalog.method("lroa")).hasMessage("there is no method lroa; did you mean lora?");
        assertThatThrownBy(() -> Catalog.initializer("svd"))
                .hasMessageStartingWith("there is no method svd; ")
                .hasMessageContaining("pissa");
    }
}
