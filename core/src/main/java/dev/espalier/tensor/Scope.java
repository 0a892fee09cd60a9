package dev.espalier.tensor;

import java.util.Iterator;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;

/**
 * A stretch of code that owns the native memory made in it.
 *
 * <p>Scopes nest per thread as blocks do. Closing one frees every tensor made since it opened on that thread, except
 * those {@linkplain #promote promoted} to the scope around it or {@linkplain Tensor#keep kept}:
 *
 * <pre>{@code
 * try (Scope scope = Scope.open()) {
 *     Tensor hidden = x.matmul(w);             // freed at the end
 *     return scope.promote(hidden.relu());     // lives on in the caller's scope
 * }
 * }</pre>
 */
public final class Scope implements AutoCloseable {

    static {
        Natives.prepare();
    }

    private final PointerScope pointers = new PointerScope();

    private Scope() {}

    /** Opens a scope on this thread; close it on the same thread, innermost first. */
    public static Scope open() {
        return new Scope();
    }

    /**
     * Hands a tensor to the scope around this one, or sets it free where there is none: then its owner closes it.
     *
     * @return the same tensor
     */
    public Tensor promote(Tensor tensor) {
        handOut(tensor.handle(), pointers);
        return tensor;
    }

    /** Frees what the scope owns. */
    @Override
    public void close() {
        pointers.close();
    }

    /** Makes {@code pointer} outlive {@code inner}, in the scope around it if there is one. */
    static void handOut(Pointer pointer, PointerScope inner) {
        Iterator<PointerScope> scopes = PointerScope.getScopeIterator();
        while (scopes != null && scopes.hasNext()) {
            if (scopes.next() == inner) {
                if (scopes.hasNext()) {
                    scopes.next().attach(pointer);
                    return;
                }
                break;
            }
        }
        pointer.retainReference();
    }
}
