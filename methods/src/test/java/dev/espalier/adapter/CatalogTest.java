package dev.espalier.adapter;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class CatalogTest {

    @Test
    void everyMethodIsFoundAndDescribed() {
        assertThat(Catalog.methods()).containsOnlyKeys("dora", "lora", "lora+", "olora", "pissa", "rslora");
        Catalog.methods().forEach((name, method) -> {
            assertThat(method.about().citation()).as(name).contains("arXiv:");
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
                .hasMessage("there is no method svd; known here: olora, pissa");
    }
}
