package dev.espalier.tensor;

import dev.espalier.EspalierException;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.Iterator;
import java.util.List;
import java.util.function.UnaryOperator;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.global.torch;
import org.jspecify.annotations.Nullable;

/**
 * Stages that run one after another and keep, until the backward pass, only what goes into each of them: their intermediate
 * results are computed a second time when a gradient asks for them.
 *
 * <p>Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174; PyTorch's {@code
 * torch.utils.checkpoint.checkpoint_sequential} with a segment for each stage. For L stages of equal size it takes the time of
 * one more forward pass and holds L inputs and the intermediate results of one stage.
 *
 * <p>Dropout draws the same numbers the second time. Whatever else a stage reads must not change before the backward pass, of
 * which there can be one. What is held is freed by that pass, or by the end of this thread's outermost {@link Scope} if no
 * gradient arrives before.
 */
public final class Recompute {

    static {
        Natives.prepare();
    }

    /** Of this thread, oldest first: those of which a gradient may still ask something, and those just done. */
    private static final ThreadLocal<Deque<Recompute>> ALL = ThreadLocal.withInitial(ArrayDeque::new);

    /** Never closed: it may hang on graphs that outlive everything else. */
    private static final GradientHook TOO_LATE = new GradientHook(gradient -> {
        throw new EspalierException(
                "this backward pass comes after the scope of its forward pass, or is the second one; what"
                        + " it would compute again is gone. Call backward once, inside the outermost scope");
    });

    private final List<? extends UnaryOperator<Tensor>> stages;
    private final Tensor start; // with its graph, where it has one
    private final List<Tensor> inputs = new ArrayList<>(); // of each stage, without any graph
    private final List<Tensor> states = new ArrayList<>(); // of the generator before each stage
    private final List<Tensor> held; // what stages read, freed with the rest
    private final GradientHook hook = new GradientHook(this::backward);
    private final Pointer end;
    private @Nullable Tensor leaf;
    private int hookNumber;
    private boolean isRunning;
    private boolean isDone;

    private Recompute(List<? extends UnaryOperator<Tensor>> stages, Tensor start, List<Tensor> held) {
        this.stages = stages;
        this.start = start.alias().keep();
        this.held = held;
        end = new End();
    }

    /**
     * What the stages make of {@code x}.
     *
     * @param stages each makes one new tensor of one; called once now, without recording, and once when a gradient arrives
     * @param x of a floating type
     * @param held kept tensors that the stages read, which are closed when the stages cannot be called any more
     * @return the last stage's result, for which gradients are recorded, in the caller's scope
     */
    public static Tensor sequential(List<? extends UnaryOperator<Tensor>> stages, Tensor x, List<Tensor> held) {
        sweep();
        Recompute recompute = new Recompute(stages, x, held);
        ALL.get().add(recompute);
        try {
            return recompute.forward(x);
        } catch (RuntimeException | Error e) {
            recompute.end.deallocate();
            throw e;
        }
    }

    private Tensor forward(Tensor x) {
        try (Scope scope = Scope.open();
                Grad off = Grad.off()) {
            Tensor at = x.detach();
            for (UnaryOperator<Tensor> stage : stages) {
                inputs.add(at.keep());
                states.add(generator(at).keep());
                at = stage.apply(at);
            }
            Tensor result = at.detach().requiresGrad_(true);
            leaf = result.alias().keep();
            hookNumber = result.registerHook(hook);
            return scope.promote(result);
        }
    }

    /** Stage by stage from the last, each with a graph of its own that is gone before the next one's. */
    private void backward(Tensor gradient) {
        if (isDone || isRunning) {
            throw new EspalierException("a second backward pass through layers that are computed again; call it once");
        }
        isRunning = true;
        Tensor g = gradient.detach().keep();
        try {
            for (int i = stages.size() - 1; i >= 0; i--) {
                try (Scope scope = Scope.open()) {
                    Tensor x = inputs.get(i).requiresGrad_(true);
                    Tensor after = generator(x);
                    restore(x, states.get(i));
                    try (Grad on = Grad.on()) {
                        stages.get(i).apply(x).backward(g);
                    }
                    restore(x, after);
                    Tensor own = x.grad();
                    g.close();
                    g = own == null ? x.zerosLike().keep() : own.keep();
                    x.close();
                }
            }
            if (start.requiresGrad()) {
                start.backward(g);
            }
        } finally {
            g.close();
            isRunning = false;
            isDone = true;
            free();
        }
    }

    /** What is large; handles that a running backward pass still knows stay until {@link #sweep}. */
    private void free() {
        inputs.forEach(Tensor::close);
        states.forEach(Tensor::close);
        held.forEach(Tensor::close);
        start.close();
    }

    /** Lets go of those whose backward pass is over; inside one, of none. */
    private static void sweep() {
        Deque<Recompute> all = ALL.get();
        if (all.stream().noneMatch(r -> r.isRunning)) {
            List.copyOf(all).stream().filter(r -> r.isDone).forEach(r -> r.end.deallocate());
        }
    }

    private void release() {
        ALL.get().remove(this);
        if (!isDone) {
            isDone = true;
            free();
        }
        Tensor own = leaf;
        if (own != null) {
            own.registerHook(TOO_LATE); // a graph may have outlived this
            own.removeHook(hookNumber);
            own.close();
        }
        hook.close();
    }

    private static Tensor generator(Tensor on) {
        try (PointerScope temporaries = new PointerScope()) {
            Tensor state = Tensor.call("get_state", () -> of(on).get_state());
            Scope.handOut(state.handle(), temporaries);
            return state;
        }
    }

    private static void restore(Tensor on, Tensor state) {
        try (PointerScope temporaries = new PointerScope()) {
            of(on).set_state(state.handle());
        }
    }

    private static org.bytedeco.pytorch.Generator of(Tensor on) {
        return torch.globalContext().defaultGenerator(on.handle().device());
    }

    /** Something that the outermost scope closes at its end, whatever scopes are inside. */
    private final class End extends Pointer {
        End() {
            deallocator(new Action(Recompute.this::release));
            Iterator<PointerScope> scopes = PointerScope.getScopeIterator();
            PointerScope outermost = null;
            while (scopes != null && scopes.hasNext()) {
                outermost = scopes.next();
            }
            if (outermost == null) {
                retainReference();
            } else {
                outermost.attach(this);
            }
        }

        private record Action(Runnable run) implements Deallocator {
            @Override
            public void deallocate() {
                run.run();
            }
        }
    }
}
