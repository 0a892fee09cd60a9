package dev.espalier;

import java.util.Collection;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/** Finds what a mistyped name was meant to be. */
public final class Nearest {

    private Nearest() {}

    /**
     * The known name closest to a mistyped one: by edit distance, letter case, hyphens and underscores aside.
     *
     * @return the closest, or null if none is within a third of the name's length (two edits at least)
     */
    public static @Nullable String of(String name, Collection<String> known) {
        String wanted = plain(name);
        String best = null;
        int bestDistance = Math.max(2, wanted.length() / 3) + 1;
        for (String candidate : known) {
            String plain = plain(candidate);
            int distance = distance(wanted, plain);
            // Two edits turn any two-letter word into any other: a hint must share more than it changes.
            if (distance < bestDistance && distance < plain.length()) {
                bestDistance = distance;
                best = candidate;
            }
        }
        return best;
    }

    /**
     * The end of a sentence about an unknown name: {@code did you mean rank?}, or all that is known where nothing is near.
     */
    public static String hint(String name, Collection<String> known) {
        String near = of(name, known);
        if (near != null) {
            return "did you mean " + near + "?";
        }
        return known.isEmpty() ? "none is expected here" : "known here: " + String.join(", ", known);
    }

    private static String plain(String name) {
        return name.toLowerCase(Locale.ROOT).replace("_", "").replace("-", "");
    }

    /** Insertions, deletions, replacements and swaps of neighbours (optimal string alignment). */
    private static int distance(String a, String b) {
        int[] beforeLast = new int[b.length() + 1];
        int[] last = new int[b.length() + 1];
        for (int j = 0; j <= b.length(); j++) {
            last[j] = j;
        }
        for (int i = 1; i <= a.length(); i++) {
            int[] row = new int[b.length() + 1];
            row[0] = i;
            for (int j = 1; j <= b.length(); j++) {
                int replaced = last[j - 1] + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
                row[j] = Math.min(replaced, 1 + Math.min(last[j], row[j - 1]));
                if (i > 1 && j > 1 && a.charAt(i - 1) == b.charAt(j - 2) && a.charAt(i - 2) == b.charAt(j - 1)) {
                    row[j] = Math.min(row[j], beforeLast[j - 2] + 1);
                }
            }
            beforeLast = last;
            last = row;
        }
        return last[b.length()];
    }
}
