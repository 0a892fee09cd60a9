package dev.espalier.compare;

/** Words as a POSIX shell reads them. */
final class Shell {

    private Shell() {}

    /** As one word. */
    static String quoted(String word) {
        return word.matches("[A-Za-z0-9_@%+=:,./-]+") ? word : "'" + word.replace("'", "'\\''") + "'";
    }
}
