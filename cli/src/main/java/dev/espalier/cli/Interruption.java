package dev.espalier.cli;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/**
 * What happens when the process is told to end (Ctrl-C, SIGTERM) while a command is at work.
 *
 * <p>A command that can stop in good order says how, and gets time to; then the process is halted. It must not end in the
 * usual way: the C library would tear down libtorch under the thread that still computes in it, and crash.
 */
final class Interruption {

    private static final long PATIENCE_SECONDS = 120; // for the step that runs and its checkpoint

    private static final CountDownLatch FINISHED = new CountDownLatch(1);
    private static volatile @Nullable Runnable stop;

    private Interruption() {}

    /** Watches over this process; once, before its command runs. */
    static void watch() {
        Runtime.getRuntime().addShutdownHook(new Thread(Interruption::end, "interruption"));
    }

    /** Says how the command at work stops in good order; null: it cannot. */
    static void stopBy(@Nullable Runnable request) {
        stop = request;
    }

    /** Says that the command has ended, and all it had to say is printed. */
    static void finished() {
        FINISHED.countDown();
    }

    private static void end() {
        if (FINISHED.getCount() == 0) {
            return;
        }
        Runnable request = stop;
        try {
            if (request != null) {
                request.run();
                FINISHED.await(PATIENCE_SECONDS, TimeUnit.SECONDS);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        Runtime.getRuntime().halt(Main.FAILED);
    }
}
