package dev.espalier.hub;

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.time.Duration;

/**
 * A body that fails when it stays silent for too long. The JDK's request timeout ends with the headers, and a read of
 * the body would wait for ever on a connection that died without a word.
 */
final class Watch extends FilterInputStream {

    private final Duration stall;
    private final Thread guard;
    private volatile long heard = System.nanoTime();
    private volatile boolean stalled;

    Watch(InputStream body, Duration stall) {
        super(body);
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
            in.close(); // wakes the reader
        } catch (InterruptedException | IOException e) {
            // Closed by its owner, or already broken: either way there is nothing left to watch.
            return;
        }
    }

    @Override
    public int read() throws IOException {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xFF;
    }

    @Override
    public int read(byte[] bytes, int offset, int length) throws IOException {
        try {
            int read = in.read(bytes, offset, length);
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
        in.close();
    }
}
