package dev.espalier.tensor;

import java.util.function.Consumer;
import org.bytedeco.pytorch.TensorBase;
import org.bytedeco.pytorch.VoidTensorHook;

/**
 * What to do with a gradient once a backward pass has it: the way to carry a gradient on by hand where the recorded one would
 * hold too much memory.
 *
 * <p>The value goes into the computation as a leaf of its own, whose gradient the hook turns into gradients of what the value
 * was made from:
 *
 * <pre>{@code
 * GradientHook hook = new GradientHook(g -> c.backward(productsWithBasis(g)));   // once
 * Tensor leaf = combined(c).requiresGrad_(true);                                 // computed without recording
 * leaf.registerHook(hook);
 * }</pre>
 *
 * <p>One hook serves any number of tensors; its maker closes it after them.
 */
public final class GradientHook implements AutoCloseable {

    static {
        Natives.prepare();
    }

    private final VoidTensorHook handle;

    /**
     * A hook.
     *
     * @param action gets the gradient, which lives as long as the call; what it computes is not recorded and freed after it
     */
    public GradientHook(Consumer<Tensor> action) {
        handle = new VoidTensorHook() {
            @Override
            public void call(TensorBase gradient) {
                try (Scope scope = Scope.open();
                        Grad off = Grad.off()) {
                    action.accept(Tensor.lent(gradient));
                }
            }
        };
        handle.retainReference(); // no scope ends it
    }

    VoidTensorHook handle() {
        return handle;
    }

    @Override
    public void close() {
        handle.deallocate();
    }
}
