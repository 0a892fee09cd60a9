package dev.espalier.cli;

import dev.espalier.hub.Progress;
import java.io.PrintWriter;

/** Tells of downloads on standard error: a line at the start and at the end of each file. */
final class Downloads {

    private Downloads() {}

    static Progress to(PrintWriter err) {
        return (file, done, total) -> {
            if (done == 0) {
                err.printf("fetching %s (%s) ...%n", file, Terminal.bytes(total));
            } else if (done == total) {
                err.printf("fetched  %s%n", file);
            }
        };
    }
}
