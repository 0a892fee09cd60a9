package dev.espalier.init;

import static dev.espalier.Check.check;

import dev.espalier.adapter.Attached;
import dev.espalier.adapter.Site;
import dev.espalier.nn.Embedding;
import java.util.List;

/** What initialisers that decompose a weight [out, in], or its gradient, have in common. */
final class Starts {

    private Starts() {}

    /** The layers that have a weight to decompose; embeddings start as usual. */
    static List<Site> sites(Attached adapter) {
        return adapter.sites().stream()
                .filter(site -> !(site.layer() instanceof Embedding))
                .toList();
    }

    /** The rank of the adapter on a layer. */
    static long rank(Attached adapter, Site site) {
        return adapter.lowRank(site.path()).a().shape()[0];
    }

    /** A layer's smaller width, beyond which there are no singular vectors. */
    static long width(Site site) {
        return Math.min(site.layer().outFeatures(), site.layer().inFeatures());
    }

    /** Stops if a layer has fewer singular vectors than the adapter ranks. */
    static void checkRank(String method, Attached adapter, Site site) {
        check(
                rank(adapter, site) <= width(site),
                "%s needs a rank of at most %d on %s, found %d; set rank_pattern for it",
                method,
                width(site),
                site.path(),
                rank(adapter, site));
    }
}
