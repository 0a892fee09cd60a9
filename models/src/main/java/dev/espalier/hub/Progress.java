package dev.espalier.hub;

/** Hears how a download goes on. */
@FunctionalInterface
public interface Progress {

    /** Says nothing. */
    Progress SILENT = (file, done, total) -> {};

    /**
     * Called at the start of a file, about every MiB, and at its end, on the thread that downloads.
     *
     * @param file its name in the repository
     * @param done bytes on disk, those of earlier runs included
     * @param total bytes of the whole file, or -1 if the server does not say
     */
    void advanced(String file, long done, long total);
}
