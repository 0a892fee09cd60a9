package dev.espalier.tensor;

import org.bytedeco.pytorch.AutoGradMode;
import org.bytedeco.pytorch.GradMode;

/** Switches the recording of gradients off or on for this thread until closed. */
public final class Grad implements AutoCloseable {

    static {
        Natives.prepare();
    }

    private final AutoGradMode guard;

    private Grad(boolean enabled) {
        guard = new AutoGradMode(enabled);
        guard.retainReference(); // an enclosing scope must not end it early
    }

    /** Nothing computed until {@link #close} will carry gradients. */
    public static Grad off() {
        return new Grad(false);
    }

    /** Records again, inside a stretch that does not. */
    public static Grad on() {
        return new Grad(true);
    }

    /** Whether what this thread computes carries gradients. */
    public static boolean isOn() {
        return GradMode.is_enabled();
    }

    /** Restores what held before. */
    @Override
    public void close() {
        guard.deallocate();
    }
}
