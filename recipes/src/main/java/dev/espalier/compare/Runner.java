package dev.espalier.compare;

import java.nio.file.Path;
import org.jspecify.annotations.Nullable;

/** Carries out jobs, several at once. */
interface Runner {

    /**
     * Carries out a job, after which {@link Job#isDone} holds in the folder.
     *
     * @return why it failed, in one sentence; null where it did not
     * @throws InterruptedException if everything was stopped meanwhile
     */
    @Nullable
    String run(Job job, Path folder) throws InterruptedException;

    /** Ends what runs, from any thread; {@link #run} then throws, and starts nothing more. */
    void stop();
}
