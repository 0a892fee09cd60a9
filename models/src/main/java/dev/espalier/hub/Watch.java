package dev.espalier.hub;

import java.io.IOException;
import java.io.InputStream;
import java.time.Duration;

/**
 * A body that fails when it stays silent for too long. The JDK's request timeout ends with the headers, and a read of
 * the body would wait for ever on a connection that died without a word.
 */
final class Watch implements AutoCloseable {

    private final InputStream body;
    private final Duration stall;
    private final Thread guard;
    private volatile long heard = System.nanoTime();
    private volatile boolean stalled;

    Watch(InputStream body, Duration stall) {
        this.body = body;
        this.stall = stall;
        guard = new Thread(this::guard, "espalier-download-watch");
        guard.setDaemon(true);
        guard.start();
    }

    private void guard() {
        try {
            long left = stall.toNanos();
            while (left > 0) {
                Thread.sleep(left / 1_000_000 + 1);
                left = heard + stall.toNanos() - System.nanoTime();
            }
            stalled = true;
            body.close(); // wakes the reader
        } catch (InterruptedException | IOException e) {
            // Closed by its owner, or already broken: either way there is nothing left to watch.
            return;
        }
    }

    int read(byte[] chunk) throws IOException {
        try {
            int read = body.read(chunk);
            heard = System.nanoTime();
            if (read < 0 && stalled) {
                throw new IOException("closed");
            }
            return read;
        } catch (IOException e) {
            throw stalled ? new IOException("no byte for %d s".formatted(stall.toSeconds()), e) : e;
        }
    }

    @Override
    public void close() throws IOException {
        guard.interrupt();
        body.close();
    }
}
