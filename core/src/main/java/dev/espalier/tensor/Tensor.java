package dev.espalier.tensor;

import com.google.errorprone.annotations.CanIgnoreReturnValue;
import dev.espalier.Check;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.List;
import java.util.function.Supplier;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.DoubleOptional;
import org.bytedeco.pytorch.LongOptional;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.ScalarOptional;
import org.bytedeco.pytorch.ScalarTypeOptional;
import org.bytedeco.pytorch.StringViewOptional;
import org.bytedeco.pytorch.T_TensorTensorTensor_T;
import org.bytedeco.pytorch.T_TensorTensor_T;
import org.bytedeco.pytorch.TensorArrayRefOptional;
import org.bytedeco.pytorch.TensorBase;
import org.bytedeco.pytorch.TensorOptional;
import org.bytedeco.pytorch.TensorOptions;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch.ScalarType;
import org.jspecify.annotations.Nullable;

/**
 * A dense array of numbers with PyTorch's semantics and names.
 *
 * <p>Operations return new tensors; those whose name ends in an underscore change this one and return it. A tensor
 * belongs to the innermost {@link Scope} open on the thread that made it; outside any scope, or once {@linkplain #keep
 * kept}, its owner closes it. Dimensions may be given from the end, as -1.
 *
 * <p>An operation that libtorch refuses throws {@link TensorException}: shapes and the reason, in one sentence.
 */
public final class Tensor implements AutoCloseable {

    static {
        Natives.prepare();
    }

    private final org.bytedeco.pytorch.Tensor handle;

    /** Keeps borrowed memory (a mapped file) reachable for as long as this tensor is. */
    private final @Nullable Object anchor;

    private Tensor(org.bytedeco.pytorch.Tensor handle, @Nullable Object anchor) {
        this.handle = handle;
        this.anchor = anchor;
    }

    org.bytedeco.pytorch.Tensor handle() {
        return handle;
    }

    // ---- creation

    /** Copies values into a new float32 tensor. */
    public static Tensor of(float[] values, long... shape) {
        Tensor t = sized(values.length, DType.FLOAT32, shape);
        t.handle.data_ptr_float().put(values);
        return t;
    }

    /** Copies values into a new float64 tensor. */
    public static Tensor of(double[] values, long... shape) {
        Tensor t = sized(values.length, DType.FLOAT64, shape);
        t.handle.data_ptr_double().put(values);
        return t;
    }

    /** Copies values into a new int64 tensor. */
    public static Tensor of(long[] values, long... shape) {
        Tensor t = sized(values.length, DType.INT64, shape);
        t.handle.data_ptr_long().put(values);
        return t;
    }

    /** Copies values into a new int32 tensor. */
    public static Tensor of(int[] values, long... shape) {
        Tensor t = sized(values.length, DType.INT32, shape);
        t.handle.data_ptr_int().put(values);
        return t;
    }

    /** Copies values into a new boolean tensor. */
    public static Tensor of(boolean[] values, long... shape) {
        Tensor t = sized(values.length, DType.BOOL, shape);
        try (Pointer data = t.handle.data_ptr()) {
            BytePointer bytes = new BytePointer(data);
            for (int i = 0; i < values.length; i++) {
                bytes.put(i, (byte) (values[i] ? 1 : 0));
            }
        }
        return t;
    }

    /** Copies the remaining little-endian bytes of a buffer, which must be as many as the shape needs. */
    public static Tensor of(ByteBuffer bytes, DType dtype, long... shape) {
        Check.check(
                bytes.remaining() == numel(shape) * dtype.bytes(),
                "%d bytes were given for a %s tensor of shape %s, which needs %d",
                bytes.remaining(),
                dtype,
                Arrays.toString(shape),
                numel(shape) * dtype.bytes());
        Tensor t = empty(dtype, shape);
        t.write(0, bytes);
        return t;
    }

    /**
     * A tensor over a direct buffer's remaining bytes, without a copy; writes go through to the buffer.
     *
     * @param bytes direct, little-endian, as many bytes as the shape needs; stays reachable as long as the tensor and
     *     its views are
     */
    public static Tensor map(ByteBuffer bytes, DType dtype, long... shape) {
        Check.check(
                bytes.isDirect(), "only a direct buffer can be mapped, found one on the heap: copy it with Tensor.of");
        Check.check(
                bytes.remaining() == numel(shape) * dtype.bytes(),
                "%d bytes were given for a %s tensor of shape %s, which needs %d",
                bytes.remaining(),
                dtype,
                Arrays.toString(shape),
                numel(shape) * dtype.bytes());
        ByteBuffer window = bytes.slice();
        return scoped(
                "map", window, () -> torch.from_blob(new Pointer((Buffer) window), shape, options(dtype, Device.CPU)));
    }

    /** A tensor without dimensions that holds one value. */
    public static Tensor scalar(double value, DType dtype) {
        return full(value, dtype);
    }

    /** Memory as it is found. */
    public static Tensor empty(DType dtype, long... shape) {
        return scoped("empty", null, () -> torch.empty(shape, options(dtype, Device.CPU), null));
    }

    /** All zero. */
    public static Tensor zeros(DType dtype, long... shape) {
        return scoped("zeros", null, () -> torch.zeros(shape, options(dtype, Device.CPU)));
    }

    /** All one. */
    public static Tensor ones(DType dtype, long... shape) {
        return scoped("ones", null, () -> torch.ones(shape, options(dtype, Device.CPU)));
    }

    /** One value everywhere. */
    public static Tensor full(double value, DType dtype, long... shape) {
        return scoped("full", null, () -> torch.full(shape, new Scalar(value), options(dtype, Device.CPU)));
    }

    /** 0, 1, .. end - 1 as int64. */
    public static Tensor arange(long end) {
        return arange(0, end);
    }

    /** start, start + 1, .. end - 1 as int64. */
    public static Tensor arange(long start, long end) {
        return scoped(
                "arange",
                null,
                () -> torch.arange(new Scalar(start), new Scalar(end), options(DType.INT64, Device.CPU)));
    }

    /** The identity [n, n]. */
    public static Tensor eye(long n, DType dtype) {
        return scoped("eye", null, () -> torch.eye(n, options(dtype, Device.CPU)));
    }

    /** Zeros of this tensor's shape, type and device. */
    public Tensor zerosLike() {
        return op("zeros_like", () -> torch.zeros_like(handle));
    }

    /** Memory as it is found, of this tensor's shape, type and device. */
    public Tensor emptyLike() {
        return op("empty_like", () -> torch.empty_like(handle));
    }

    /** Joins along an existing dimension. */
    public static Tensor cat(List<Tensor> tensors, int dim) {
        return scoped("cat", null, () -> torch.cat(vector(tensors), dim), tensors.toArray(Tensor[]::new));
    }

    /** Joins along a new dimension. */
    public static Tensor stack(List<Tensor> tensors, int dim) {
        return scoped("stack", null, () -> torch.stack(vector(tensors), dim), tensors.toArray(Tensor[]::new));
    }

    // ---- lifetime

    /** Takes this tensor out of all scopes: from now on whoever holds it closes it. */
    public Tensor keep() {
        handle.retainReference();
        return this;
    }

    /** Frees this handle now; the memory goes with the last handle or recorded gradient that uses it. */
    @Override
    public void close() {
        handle.deallocate();
    }

    /** Whether this handle has been freed. */
    public boolean isClosed() {
        return handle.isNull();
    }

    // ---- what it is

    /** Sizes of the dimensions. */
    public long[] shape() {
        long[] shape = new long[dim()];
        for (int i = 0; i < shape.length; i++) {
            shape[i] = handle.size(i);
        }
        return shape;
    }

    /** Size of one dimension. */
    public long size(int dim) {
        return handle.size(dim);
    }

    /** Number of dimensions. */
    public int dim() {
        return (int) handle.dim();
    }

    /** Number of elements. */
    public long numel() {
        return handle.numel();
    }

    /** Bytes of all elements. */
    public long bytes() {
        return numel() * dtype().bytes();
    }

    /** Element type. */
    public DType dtype() {
        return fromNative(handle.scalar_type().intern());
    }

    /** Where it lives. */
    public Device device() {
        try (org.bytedeco.pytorch.Device device = handle.device()) {
            return device.is_cuda() ? new Device(Device.Kind.CUDA, device.index()) : Device.CPU;
        }
    }

    /** Whether elements lie in memory in order. */
    public boolean isContiguous() {
        return handle.is_contiguous();
    }

    // ---- values

    /** All elements, converted to float. */
    public float[] floats() {
        Check.check(numel() <= Integer.MAX_VALUE, "a tensor of %d elements does not fit a Java array", numel());
        try (Scope scope = Scope.open()) {
            float[] values = new float[(int) numel()];
            if (values.length == 0) {
                return values; // there is no memory to read from
            }
            detach().to(Device.CPU)
                    .to(DType.FLOAT32)
                    .contiguous()
                    .handle
                    .data_ptr_float()
                    .get(values);
            return values;
        }
    }

    /** All elements, converted to double. */
    public double[] doubles() {
        Check.check(numel() <= Integer.MAX_VALUE, "a tensor of %d elements does not fit a Java array", numel());
        try (Scope scope = Scope.open()) {
            double[] values = new double[(int) numel()];
            if (values.length == 0) {
                return values; // there is no memory to read from
            }
            detach().to(Device.CPU)
                    .to(DType.FLOAT64)
                    .contiguous()
                    .handle
                    .data_ptr_double()
                    .get(values);
            return values;
        }
    }

    /** All elements, converted to long; fractions are cut off. */
    public long[] longs() {
        Check.check(numel() <= Integer.MAX_VALUE, "a tensor of %d elements does not fit a Java array", numel());
        try (Scope scope = Scope.open()) {
            long[] values = new long[(int) numel()];
            if (values.length == 0) {
                return values; // there is no memory to read from
            }
            detach().to(Device.CPU)
                    .to(DType.INT64)
                    .contiguous()
                    .handle
                    .data_ptr_long()
                    .get(values);
            return values;
        }
    }

    /** The only element of a tensor that has one. */
    public double item() {
        Check.check(numel() == 1, "item() reads a tensor of one element, found shape %s", Arrays.toString(shape()));
        try (PointerScope temporaries = new PointerScope()) {
            return handle.item().toDouble();
        }
    }

    /** Copies raw little-endian bytes out, as many as {@code into} has room for. */
    public void read(long byteOffset, ByteBuffer into) {
        transfer(byteOffset, into, false);
    }

    /** Copies raw little-endian bytes in, as many as {@code from} has left. */
    public void write(long byteOffset, ByteBuffer from) {
        transfer(byteOffset, from, true);
    }

    private void transfer(long byteOffset, ByteBuffer buffer, boolean in) {
        Check.check(
                isContiguous() && device().equals(Device.CPU),
                "raw bytes are read and written on contiguous CPU tensors only");
        int count = buffer.remaining();
        Check.check(
                byteOffset >= 0 && count <= bytes() - byteOffset,
                "%d bytes at offset %d lie outside a tensor of %d bytes",
                count,
                byteOffset,
                bytes());
        if (count == 0) {
            return;
        }
        try (PointerScope temporaries = new PointerScope()) {
            // The address moves, not the position: a position beyond 2 GiB does not fit a Java buffer.
            BytePointer data =
                    new BytePointer(handle.data_ptr()).getPointer(byteOffset).capacity(count);
            ByteBuffer window = data.asByteBuffer().order(ByteOrder.nativeOrder());
            if (in) {
                window.put(buffer);
            } else {
                buffer.put(window);
            }
        }
    }

    // ---- gradients

    /** Whether gradients are recorded for it. */
    public boolean requiresGrad() {
        return handle.requires_grad();
    }

    /** Starts or stops recording gradients for this leaf. */
    public Tensor requiresGrad_(boolean record) {
        handle.set_requires_grad(record);
        return this;
    }

    /** The gradient accumulated so far, sharing its memory, or null if none has arrived. */
    public @Nullable Tensor grad() {
        org.bytedeco.pytorch.Tensor borrowed = handle.grad();
        if (!borrowed.defined()) {
            borrowed.close();
            return null;
        }
        // The binding's handle borrows from this tensor; a copy of the handle owns a reference.
        Tensor owned = new Tensor(new org.bytedeco.pytorch.Tensor(borrowed), null);
        borrowed.close();
        return owned;
    }

    /** Drops the gradient. */
    public void clearGrad() {
        try (PointerScope temporaries = new PointerScope()) {
            handle.mutable_grad().reset();
        }
    }

    /** Back-propagates from this scalar into the leaves' gradients. */
    public void backward() {
        try {
            handle.backward();
        } catch (RuntimeException e) {
            throw TensorException.of("backward", e, this);
        }
    }

    /** Back-propagates a given gradient of this tensor's shape. */
    public void backward(Tensor gradient) {
        try (PointerScope temporaries = new PointerScope()) {
            handle.backward(gradient.handle, new BoolOptional(), false, new TensorArrayRefOptional());
        } catch (RuntimeException e) {
            throw TensorException.of("backward", e, this, gradient);
        }
    }

    /**
     * Calls a hook with the gradient of this tensor, once a backward pass has all of it.
     *
     * <p>It acts only on tensors for which gradients are recorded, and must not be closed before them or before it is removed.
     *
     * @return a number for {@link #removeHook}
     */
    @CanIgnoreReturnValue
    public int registerHook(GradientHook hook) {
        return handle.register_hook(hook.handle());
    }

    /** Calls a hook no more. */
    public void removeHook(int number) {
        handle.remove_hook(number);
    }

    /** The same values, cut off from recorded gradients; shares memory. */
    public Tensor detach() {
        return view("detach", () -> handle.detach());
    }

    // ---- arithmetic, element by element with broadcasting

    /** this + other. */
    public Tensor add(Tensor other) {
        return op("add", () -> torch.add(handle, other.handle), other);
    }

    /** this + scale · other. */
    public Tensor add(Tensor other, double scale) {
        return temps("add", () -> torch.add(handle, other.handle, new Scalar(scale)), other);
    }

    /** this - other. */
    public Tensor sub(Tensor other) {
        return op("sub", () -> torch.subtract(handle, other.handle), other);
    }

    /** this + value. */
    public Tensor add(double value) {
        return temps("add", () -> torch.add(handle, new Scalar(value)));
    }

    /** this - value. */
    public Tensor sub(double value) {
        return add(-value);
    }

    /** this · other. */
    public Tensor mul(Tensor other) {
        return op("mul", () -> torch.mul(handle, other.handle), other);
    }

    /** this · value. */
    public Tensor mul(double value) {
        return temps("mul", () -> torch.mul(handle, new Scalar(value)));
    }

    /** this / other. */
    public Tensor div(Tensor other) {
        return op("div", () -> torch.div(handle, other.handle), other);
    }

    /** this / value. */
    public Tensor div(double value) {
        return temps("div", () -> torch.div(handle, new Scalar(value)));
    }

    /** this + a · b. */
    public Tensor addcmul(Tensor a, Tensor b) {
        return op("addcmul", () -> torch.addcmul(handle, a.handle, b.handle), a, b);
    }

    /** this to a power. */
    public Tensor pow(double value) {
        return temps("pow", () -> torch.pow(handle, new Scalar(value)));
    }

    /** The larger of both. */
    public Tensor maximum(Tensor other) {
        return op("maximum", () -> torch.maximum(handle, other.handle), other);
    }

    /** The smaller of both. */
    public Tensor minimum(Tensor other) {
        return op("minimum", () -> torch.minimum(handle, other.handle), other);
    }

    /** Values below {@code low} raised to it, values above {@code high} lowered to it. */
    public Tensor clamp(double low, double high) {
        return temps(
                "clamp",
                () -> torch.clamp(handle, new ScalarOptional(new Scalar(low)), new ScalarOptional(new Scalar(high))));
    }

    /** Every value moved towards 0 by {@code lambda}, and 0 if it would cross: x - clamp(x, -λ, λ). */
    public Tensor softshrink(double lambda) {
        return temps("softshrink", () -> torch.softshrink(handle, new Scalar(lambda)));
    }

    /** -this. */
    public Tensor neg() {
        return op("neg", () -> torch.neg(handle));
    }

    /** Magnitudes. */
    public Tensor abs() {
        return op("abs", () -> torch.abs(handle));
    }

    /** -1, 0 or 1. */
    public Tensor sign() {
        return op("sign", () -> handle.sign());
    }

    /** e to the power of this. */
    public Tensor exp() {
        return op("exp", () -> torch.exp(handle));
    }

    /** Natural logarithm. */
    public Tensor log() {
        return op("log", () -> torch.log(handle));
    }

    /** Square root. */
    public Tensor sqrt() {
        return op("sqrt", () -> torch.sqrt(handle));
    }

    /** 1 / square root. */
    public Tensor rsqrt() {
        return op("rsqrt", () -> torch.rsqrt(handle));
    }

    /** Sine. */
    public Tensor sin() {
        return op("sin", () -> torch.sin(handle));
    }

    /** Cosine. */
    public Tensor cos() {
        return op("cos", () -> torch.cos(handle));
    }

    /** Hyperbolic tangent. */
    public Tensor tanh() {
        return op("tanh", () -> torch.tanh(handle));
    }

    /** 1 / (1 + e^-x). */
    public Tensor sigmoid() {
        return op("sigmoid", () -> torch.sigmoid(handle));
    }

    /** max(0, x). */
    public Tensor relu() {
        return op("relu", () -> torch.relu(handle));
    }

    /** The element where it is above 0, else slope times it. */
    public Tensor leakyRelu(double slope) {
        return temps("leaky_relu", () -> torch.leaky_relu(handle, new Scalar(slope)));
    }

    /** The element where it is above 0, else its exponential minus 1. */
    public Tensor elu() {
        return op("elu", () -> torch.elu(handle));
    }

    /** x · sigmoid(x). */
    public Tensor silu() {
        return op("silu", () -> torch.silu(handle));
    }

    /** x². */
    public Tensor square() {
        return op("square", () -> torch.square(handle));
    }

    /** Where the standard normal distribution function takes these values: its inverse. */
    public Tensor ndtri() {
        return op("special_ndtri", () -> torch.special_ndtri(handle));
    }

    /** Largest whole number not above. */
    public Tensor floor() {
        return op("floor", () -> torch.floor(handle));
    }

    /** Nearest whole number, halves to even. */
    public Tensor round() {
        return op("round", () -> torch.round(handle));
    }

    /** Where neither infinite nor NaN; boolean. */
    public Tensor isFinite() {
        return op("isfinite", () -> torch.isfinite(handle));
    }

    /** Gaussian error linear unit: exact (with erf), or the approximation with tanh. */
    public Tensor gelu(boolean tanhApproximation) {
        return op("gelu", () -> torch.gelu(handle, tanhApproximation ? "tanh" : "none"));
    }

    // ---- comparison; boolean results

    /** this = other. */
    public Tensor eq(Tensor other) {
        return op("eq", () -> torch.eq(handle, other.handle), other);
    }

    /** this = value. */
    public Tensor eq(double value) {
        return temps("eq", () -> torch.eq(handle, new Scalar(value)));
    }

    /** this ≠ other. */
    public Tensor ne(Tensor other) {
        return op("ne", () -> torch.ne(handle, other.handle), other);
    }

    /** this ≠ value. */
    public Tensor ne(double value) {
        return temps("ne", () -> torch.ne(handle, new Scalar(value)));
    }

    /** this &lt; other. */
    public Tensor lt(Tensor other) {
        return op("lt", () -> torch.lt(handle, other.handle), other);
    }

    /** this &lt; value. */
    public Tensor lt(double value) {
        return temps("lt", () -> torch.lt(handle, new Scalar(value)));
    }

    /** this ≤ other. */
    public Tensor le(Tensor other) {
        return op("le", () -> torch.le(handle, other.handle), other);
    }

    /** this ≤ value. */
    public Tensor le(double value) {
        return temps("le", () -> torch.le(handle, new Scalar(value)));
    }

    /** this &gt; other. */
    public Tensor gt(Tensor other) {
        return op("gt", () -> torch.gt(handle, other.handle), other);
    }

    /** this &gt; value. */
    public Tensor gt(double value) {
        return temps("gt", () -> torch.gt(handle, new Scalar(value)));
    }

    /** this ≥ other. */
    public Tensor ge(Tensor other) {
        return op("ge", () -> torch.ge(handle, other.handle), other);
    }

    /** this ≥ value. */
    public Tensor ge(double value) {
        return temps("ge", () -> torch.ge(handle, new Scalar(value)));
    }

    /** Both. */
    public Tensor logicalAnd(Tensor other) {
        return op("logical_and", () -> torch.logical_and(handle, other.handle), other);
    }

    /** The contrary. */
    public Tensor logicalNot() {
        return op("logical_not", () -> torch.logical_not(handle));
    }

    /** {@code a} where {@code condition} holds, else {@code b}. */
    public static Tensor where(Tensor condition, Tensor a, Tensor b) {
        return call("where", () -> torch.where(condition.handle, a.handle, b.handle), condition, a, b);
    }

    /** {@code value} where {@code mask} holds, else this. */
    public Tensor maskedFill(Tensor mask, double value) {
        return temps("masked_fill", () -> handle.masked_fill(mask.handle, new Scalar(value)), mask);
    }

    /** Whether shape, type and every element are the same; NaN equals nothing. */
    public boolean equal(Tensor other) {
        return dtype() == other.dtype() && torch.equal(handle, other.handle);
    }

    /** Whether every element is within {@code atol + rtol · |other|}; types must agree. */
    public boolean allclose(Tensor other, double rtol, double atol) {
        return torch.allclose(handle, other.handle, rtol, atol, false);
    }

    /** Whether every element is true. */
    public boolean all() {
        try (Scope scope = Scope.open()) {
            return op("all", () -> torch.all(handle)).item() != 0;
        }
    }

    /** Whether any element is true. */
    public boolean any() {
        try (Scope scope = Scope.open()) {
            return op("any", () -> torch.any(handle)).item() != 0;
        }
    }

    // ---- products

    /** Matrix product over the last two dimensions, the others broadcast. */
    public Tensor matmul(Tensor other) {
        return op("matmul", () -> torch.matmul(handle, other.handle), other);
    }

    /**
     * x Wᵀ + b. A weight or bias of another floating type than x is converted to x's type first: the one place where
     * a float32 parameter meets a bfloat16 activation.
     *
     * @param weight [out, in]
     * @param bias [out], or null
     * @return [.., out] for this [.., in]
     */
    public Tensor linear(Tensor weight, @Nullable Tensor bias) {
        DType dtype = dtype();
        Tensor w = weight.to(dtype);
        if (!Grad.isOn() && numel() == size(-1) && w.dim() == 2 && w.size(1) == numel()) {
            return row(w, bias);
        }
        if (bias == null) {
            return op("linear", () -> torch.linear(handle, w.handle), w);
        }
        Tensor b = bias.to(dtype);
        return op("linear", () -> torch.linear(handle, w.handle, b.handle), w, b);
    }

    /** Of one row: a product of matrices would bring all of W into another order first, at two to three times the time. */
    private Tensor row(Tensor w, @Nullable Tensor bias) {
        long[] shape = shape();
        shape[shape.length - 1] = w.size(0);
        try (Scope scope = Scope.open()) {
            Tensor y = w.matmul(reshape(w.size(1)));
            return scope.promote((bias == null ? y : y.add_(bias.to(y.dtype()))).view(shape));
        }
    }

    /** this + scale · a b, for matrices. */
    public Tensor addmm(Tensor a, Tensor b, double scale) {
        return temps("addmm", () -> torch.addmm(handle, a.handle, b.handle, new Scalar(1.0), new Scalar(scale)), a, b);
    }

    // ---- shape; results share memory where they can

    /** The two last dimensions exchanged; for a matrix, its transpose. */
    public Tensor mT() {
        return transpose(-2, -1);
    }

    /** A matrix transposed. */
    public Tensor t() {
        return view("t", () -> handle.t());
    }

    /** Two dimensions exchanged. */
    public Tensor transpose(int dim0, int dim1) {
        return view("transpose", () -> handle.transpose(dim0, dim1));
    }

    /** Dimensions in another order. */
    public Tensor permute(long... dims) {
        return view("permute", () -> handle.permute(dims));
    }

    /** Another shape over the same elements; one size may be -1. Copies if memory order asks for it. */
    public Tensor reshape(long... shape) {
        return view("reshape", () -> handle.reshape(shape));
    }

    /** Another shape over the same memory; one size may be -1. Refused where a copy would be needed. */
    public Tensor view(long... shape) {
        return view("view", () -> handle.view(shape));
    }

    /** Dimensions from start to end folded into one. */
    public Tensor flatten(int startDim, int endDim) {
        return view("flatten", () -> handle.flatten(startDim, endDim));
    }

    /** A dimension of size one put in. */
    public Tensor unsqueeze(int dim) {
        return view("unsqueeze", () -> handle.unsqueeze(dim));
    }

    /** A dimension of size one taken out. */
    public Tensor squeeze(int dim) {
        return view("squeeze", () -> handle.squeeze(dim));
    }

    /** Dimensions of size one repeated without a copy; -1 leaves a size. */
    public Tensor expand(long... shape) {
        return view("expand", () -> handle.expand(shape));
    }

    /** Copies laid side by side. */
    public Tensor repeat(long... times) {
        return op("repeat", () -> handle.repeat(times));
    }

    /** {@code length} entries along a dimension, from {@code start}. */
    public Tensor narrow(int dim, long start, long length) {
        return view("narrow", () -> handle.narrow(dim, start, length));
    }

    /** Entries {@code from} (inclusive) to {@code to} (exclusive) along a dimension. */
    public Tensor slice(int dim, long from, long to) {
        return narrow(dim, from, to - from);
    }

    /** One entry of a dimension, which goes. */
    public Tensor select(int dim, long index) {
        return view("select", () -> handle.select(dim, index));
    }

    /** Pieces of a given size along a dimension; the last may be smaller. */
    public List<Tensor> split(long size, int dim) {
        return splits("split", () -> handle.split(size, dim));
    }

    /** Pieces of the given sizes along a dimension. */
    public List<Tensor> split(long[] sizes, int dim) {
        return splits("split", () -> handle.split(sizes, dim));
    }

    /** Entries along a dimension moved on by a number of places, those pushed off the end coming in at the start. */
    public Tensor roll(long places, int dim) {
        return op("roll", () -> torch.roll(handle, new long[] {places}, dim));
    }

    /** Entries along a dimension in reverse order. */
    public Tensor flip(long... dims) {
        return op("flip", () -> torch.flip(handle, dims));
    }

    /** Zeros added at both ends of the last dimensions: left, right of the last, then of the last but one. */
    public Tensor pad(long... amounts) {
        return op("pad", () -> torch.constant_pad_nd(handle, amounts));
    }

    /** The same elements in order in memory; itself if they are. */
    public Tensor contiguous() {
        return view("contiguous", () -> handle.contiguous());
    }

    /** A copy. */
    @Override
    @SuppressWarnings({"MissingSuperCall", "CloneDeclaresNoCloneNotSupported"})
    public Tensor clone() {
        return op("clone", () -> torch.clone(handle));
    }

    /** Converted to another element type; itself if it has it. */
    public Tensor to(DType dtype) {
        ScalarType type = toNative(dtype);
        return handle.scalar_type().intern() == type ? this : op("to", () -> handle.to(type));
    }

    /** On another device; itself if it is there. */
    public Tensor to(Device device) {
        if (device().equals(device)) {
            return this;
        }
        return temps(
                "to",
                () -> handle.to(
                        new org.bytedeco.pytorch.Device(device.toString()),
                        handle.scalar_type().intern(),
                        false,
                        false,
                        null));
    }

    // ---- choosing entries

    /** Entries along a dimension, by an int64 vector of indices. */
    public Tensor indexSelect(int dim, Tensor index) {
        return op("index_select", () -> handle.index_select(dim, index.handle), index);
    }

    /** The same with {@code source} added where the int64 {@code index} says along a dimension; places may repeat. */
    public Tensor indexAdd(int dim, Tensor index, Tensor source) {
        return op("index_add", () -> torch.index_add(handle, dim, index.handle, source.handle), index, source);
    }

    /** For each place of {@code index}, the entry that it names along a dimension. */
    public Tensor gather(int dim, Tensor index) {
        return op("gather", () -> handle.gather(dim, index.handle), index);
    }

    /** Writes {@code source} where {@code index} points along a dimension. */
    public Tensor scatter_(int dim, Tensor index, Tensor source) {
        return inPlace("scatter_", () -> handle.scatter_(dim, index.handle, source.handle), index, source);
    }

    /** Indices of elements that are not zero: int64 [count, dim]. */
    public Tensor nonzero() {
        return op("nonzero", () -> handle.nonzero());
    }

    /**
     * Rows of a table.
     *
     * @param ids int64 [..]
     * @param weight [rows, width]
     * @return [.., width]
     */
    public static Tensor embedding(Tensor ids, Tensor weight) {
        return call("embedding", () -> torch.embedding(weight.handle, ids.handle), weight, ids);
    }

    // ---- reductions

    /** Sum of all elements. */
    public Tensor sum() {
        return op("sum", () -> torch.sum(handle));
    }

    /** Sum along a dimension. */
    public Tensor sum(int dim, boolean keepDim) {
        return temps("sum", () -> torch.sum(handle, new long[] {dim}, keepDim, new ScalarTypeOptional()));
    }

    /** Mean of all elements. */
    public Tensor mean() {
        return op("mean", () -> torch.mean(handle));
    }

    /** Mean along a dimension. */
    public Tensor mean(int dim, boolean keepDim) {
        return temps("mean", () -> torch.mean(handle, new long[] {dim}, keepDim, new ScalarTypeOptional()));
    }

    /** Standard deviation of all elements, with n - 1. */
    public Tensor std() {
        return op("std", () -> handle.std());
    }

    /** Largest element. */
    public Tensor max() {
        return op("max", () -> torch.max(handle));
    }

    /** Smallest element. */
    public Tensor min() {
        return op("min", () -> torch.min(handle));
    }

    /** Largest along a dimension. */
    public Tensor amax(int dim, boolean keepDim) {
        return op("amax", () -> torch.amax(handle, new long[] {dim}, keepDim));
    }

    /** Index of the largest along a dimension; int64. */
    public Tensor argmax(int dim) {
        return temps("argmax", () -> torch.argmax(handle, new LongOptional(dim), false));
    }

    /** Euclidean (for a matrix: Frobenius) norm of all elements. */
    public Tensor norm() {
        return op("norm", () -> torch.norm(handle));
    }

    /** Euclidean norm along a dimension. */
    public Tensor norm(int dim, boolean keepDim) {
        return temps(
                "linalg_vector_norm",
                () -> torch.linalg_vector_norm(
                        handle, new Scalar(2.0), new long[] {dim}, keepDim, new ScalarTypeOptional()));
    }

    /** log of the sum of exponentials along a dimension. */
    public Tensor logsumexp(int dim, boolean keepDim) {
        return op("logsumexp", () -> torch.logsumexp(handle, new long[] {dim}, keepDim));
    }

    /** Running sum along a dimension. */
    public Tensor cumsum(int dim) {
        return op("cumsum", () -> torch.cumsum(handle, dim));
    }

    /** The k largest along the last dimension, in falling order: values, then int64 indices. */
    public List<Tensor> topk(long k) {
        return pair("topk", () -> handle.topk(k));
    }

    /** Sorted along a dimension: values, then int64 indices. */
    public List<Tensor> sort(int dim, boolean descending) {
        return pair("sort", () -> handle.sort(dim, descending));
    }

    // ---- networks

    /** Exponentials normalised along a dimension. */
    public Tensor softmax(int dim) {
        return op("softmax", () -> torch.softmax(handle, dim));
    }

    /** log of {@link #softmax}. */
    public Tensor logSoftmax(int dim) {
        return op("log_softmax", () -> torch.log_softmax(handle, dim));
    }

    /** Zeroes elements with probability p and scales the rest by 1/(1 - p); itself when p is 0 or not training. */
    public Tensor dropout(double p, boolean training) {
        return !training || p == 0 ? this : op("dropout", () -> torch.dropout(handle, p, true));
    }

    /**
     * Each row of the last dimension shifted and scaled to mean 0 and variance 1, then times weight plus bias.
     *
     * @param weight [width]
     * @param bias [width], or null
     */
    public Tensor layerNorm(Tensor weight, @Nullable Tensor bias, double eps) {
        return temps(
                "layer_norm",
                () -> torch.layer_norm(handle, new long[] {size(-1)}, optional(weight), optional(bias), eps, true));
    }

    /** Each row of the last dimension scaled to mean square 1, then times weight [width]. */
    public Tensor rmsNorm(Tensor weight, double eps) {
        return temps(
                "rms_norm",
                () -> torch.rms_norm(handle, new long[] {size(-1)}, optional(weight), new DoubleOptional(eps)));
    }

    /**
     * Cross-correlation along the last dimension.
     *
     * @param weight [out, in, width]
     * @param bias [out], or null
     * @return [batch, out, ..] for this [batch, in, ..]
     */
    public Tensor conv1d(Tensor weight, @Nullable Tensor bias, long stride, long padding) {
        return temps(
                "conv1d",
                () -> torch.conv1d(
                        handle,
                        weight.handle,
                        optional(bias),
                        new long[] {stride},
                        new long[] {padding},
                        new long[] {1},
                        1),
                weight);
    }

    /**
     * The transpose of {@link #conv1d}.
     *
     * @param weight [in, out, width]
     * @param bias [out], or null
     * @param outputPadding added to the length of the result
     */
    public Tensor convTranspose1d(Tensor weight, @Nullable Tensor bias, long stride, long padding, long outputPadding) {
        return temps(
                "conv_transpose1d",
                () -> torch.conv_transpose1d(
                        handle,
                        weight.handle,
                        optional(bias),
                        new long[] {stride},
                        new long[] {padding},
                        new long[] {outputPadding},
                        1,
                        1),
                weight);
    }

    /**
     * Each channel of [batch, channels, ..] shifted and scaled to mean 0 and variance 1, then times weight plus bias.
     *
     * @param mean running mean [channels], used or, while training, moved by the batch's at the rate {@code momentum}
     * @param variance running variance [channels], likewise
     */
    public Tensor batchNorm(
            Tensor weight, Tensor bias, Tensor mean, Tensor variance, boolean training, double momentum, double eps) {
        return temps(
                "batch_norm",
                () -> torch.batch_norm(
                        handle,
                        optional(weight),
                        optional(bias),
                        optional(mean),
                        optional(variance),
                        training,
                        momentum,
                        eps,
                        false),
                weight,
                bias);
    }

    /**
     * softmax(q kᵀ · scale + mask) v.
     *
     * @param q [batch, heads, query, width]
     * @param k [batch, heads or a divisor of it, key, width]
     * @param v as k
     * @param mask boolean (true attends) or added to the scores, broadcast to [batch, heads, query, key]; or null
     * @param causal whether query i sees only keys up to i; not together with a mask
     * @param scale usually 1/√width
     * @param dropout share of attention weights zeroed, in [0, 1); 0 unless training
     */
    public static Tensor scaledDotProductAttention(
            Tensor q, Tensor k, Tensor v, @Nullable Tensor mask, boolean causal, double scale, double dropout) {
        boolean grouped = q.size(1) != k.size(1);
        return scoped(
                "scaled_dot_product_attention",
                null,
                () -> torch.scaled_dot_product_attention(
                        q.handle,
                        k.handle,
                        v.handle,
                        optional(mask),
                        dropout,
                        causal,
                        new DoubleOptional(scale),
                        grouped),
                q,
                k,
                v);
    }

    /**
     * Cross-entropy of logits [n, classes] against int64 targets [n]; a target of -100 does not count.
     *
     * @param weight a weight a class [classes], or null
     * @param labelSmoothing share of the target spread over all classes, in [0, 1]
     * @param reduction how rows become a result
     */
    public Tensor crossEntropy(Tensor target, @Nullable Tensor weight, double labelSmoothing, Reduction reduction) {
        return temps(
                "cross_entropy",
                () -> torch.cross_entropy_loss(
                        handle, target.handle, optional(weight), reduction.code, -100, labelSmoothing),
                target);
    }

    /** What becomes of the losses of single rows. */
    public enum Reduction {
        NONE(0),
        MEAN(1),
        SUM(2);

        private final int code; // libtorch's

        Reduction(int code) {
            this.code = code;
        }
    }

    // ---- linear algebra

    /** What lies on a diagonal of a matrix and below it, {@code 0} for the main one; zeros elsewhere. */
    public Tensor tril(long diagonal) {
        return op("tril", () -> torch.tril(handle, diagonal));
    }

    /** Reduced singular value decomposition: U [m, k], S [k] falling, Vh [k, n], with k = min(m, n). */
    public List<Tensor> svd() {
        return triple("linalg_svd", () -> torch.linalg_svd(handle, false, new StringViewOptional()));
    }

    /**
     * The {@code q} leading singular values, nearly: the matrix on the range that q random probes and {@code niter} power
     * iterations find (Halko et al., arXiv:0909.4061, algorithm 4.4). Without oversampling: the last ones come out low.
     *
     * @return U [m, q], S [q] falling, Vh [q, n]
     */
    public List<Tensor> svdLowrank(long q, int niter, Generator generator) {
        Tensor basis = matmul(generator.randn(size(1), q).to(dtype())).qr().get(0); // [m, q]
        for (int i = 0; i < niter; i++) {
            basis = t().matmul(basis).qr().get(0); // [n, q]
            basis = matmul(basis).qr().get(0); // [m, q]
        }
        List<Tensor> small = basis.t().matmul(this).svd(); // of [q, n]
        return List.of(basis.matmul(small.get(0)), small.get(1), small.get(2));
    }

    /** Singular values alone, falling. */
    public Tensor svdvals() {
        return op("linalg_svdvals", () -> torch.linalg_svdvals(handle));
    }

    /**
     * LU decomposition of a matrix [m, n] with row pivoting, its permutation as an index instead of a matrix. Not recorded.
     *
     * @return P int64 [m], L [m, k] unit lower, U [k, n] upper, with k = min(m, n): row P_i of the matrix is row i of L U
     */
    public List<Tensor> lu() {
        return Lu.of(this);
    }

    /** X [.., n, k] with this [.., n, n] times X equal to b [.., n, k]. */
    public Tensor solve(Tensor b) {
        return call("linalg_solve", () -> torch.linalg_solve(handle, b.handle), this, b);
    }

    /** Reduced QR decomposition without pivoting: Q [m, k], R [k, n], with k = min(m, n). */
    public List<Tensor> qr() {
        return pair("linalg_qr", () -> torch.linalg_qr(handle));
    }

    /** For each value how many boundaries lie below it: int64; boundaries ascend. */
    public Tensor bucketize(Tensor boundaries) {
        return op("bucketize", () -> torch.bucketize(handle, boundaries.handle), boundaries);
    }

    /** Eigenvalues [n], ascending, and orthonormal eigenvectors [n, n] (columns) of a symmetric matrix. */
    public List<Tensor> eigh() {
        return pair("linalg_eigh", () -> torch.linalg_eigh(handle));
    }

    /** Discrete Fourier transform over the last dimension; the result is complex. */
    public Tensor fft() {
        return op("fft_fft", () -> torch.fft_fft(handle));
    }

    /** The imaginary parts of complex elements. */
    public Tensor imag() {
        return op("imag", () -> torch.imag(handle));
    }

    /** Inverse discrete Fourier transform over the last two dimensions, divided by their size; the result is complex. */
    public Tensor ifft2() {
        return op("fft_ifft2", () -> torch.fft_ifft2(handle));
    }

    /** The real parts of complex elements. */
    public Tensor real() {
        return op("real", () -> torch.real(handle));
    }

    // ---- in place

    /** Takes the values of another tensor, converted to this one's type. */
    public Tensor copy_(Tensor source) {
        return inPlace("copy_", () -> handle.copy_(source.handle), source);
    }

    /** All zero. */
    public Tensor zero_() {
        return inPlace("zero_", handle::zero_);
    }

    /** One value everywhere. */
    public Tensor fill_(double value) {
        return inPlace("fill_", () -> handle.fill_(new Scalar(value)));
    }

    /** this += other. */
    public Tensor add_(Tensor other) {
        return inPlace("add_", () -> handle.add_(other.handle), other);
    }

    /** this += scale · other. */
    public Tensor add_(Tensor other, double scale) {
        return inPlace("add_", () -> handle.add_(other.handle, new Scalar(scale)), other);
    }

    /** this += value. */
    public Tensor add_(double value) {
        return inPlace("add_", () -> handle.add_(new Scalar(value)));
    }

    /** this -= other. */
    public Tensor sub_(Tensor other) {
        return inPlace("sub_", () -> handle.sub_(other.handle), other);
    }

    /** this ·= other. */
    public Tensor mul_(Tensor other) {
        return inPlace("mul_", () -> handle.mul_(other.handle), other);
    }

    /** this ·= value. */
    public Tensor mul_(double value) {
        return inPlace("mul_", () -> handle.mul_(new Scalar(value)));
    }

    /** this /= other. */
    public Tensor div_(Tensor other) {
        return inPlace("div_", () -> handle.div_(other.handle), other);
    }

    /** this += weight · (other - this). */
    public Tensor lerp_(Tensor other, double weight) {
        return inPlace("lerp_", () -> handle.lerp_(other.handle, new Scalar(weight)), other);
    }

    /** this += scale · a · b. */
    public Tensor addcmul_(Tensor a, Tensor b, double scale) {
        return inPlace("addcmul_", () -> handle.addcmul_(a.handle, b.handle, new Scalar(scale)), a, b);
    }

    /** this += scale · a / b. */
    public Tensor addcdiv_(Tensor a, Tensor b, double scale) {
        return inPlace("addcdiv_", () -> handle.addcdiv_(a.handle, b.handle, new Scalar(scale)), a, b);
    }

    /** this = e to the power of this. */
    public Tensor exp_() {
        return inPlace("exp_", handle::exp_);
    }

    /** this += scale · a b, for matrices. */
    public Tensor addmm_(Tensor a, Tensor b, double scale) {
        return inPlace("addmm_", () -> handle.addmm_(a.handle, b.handle, new Scalar(1.0), new Scalar(scale)), a, b);
    }

    /** Type, shape and, for small tensors, values. */
    @Override
    public String toString() {
        if (isClosed()) {
            return "closed tensor";
        }
        String what = dtype() + Arrays.toString(shape());
        return numel() > 16 ? what : what + Arrays.toString(doubles());
    }

    // ---- the boundary

    /** A new tensor without temporaries of its own. */
    private Tensor op(String name, Supplier<org.bytedeco.pytorch.Tensor> operation, Tensor... others) {
        try {
            return new Tensor(operation.get(), null);
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, prepend(others));
        }
    }

    /** As {@link #op}, for a result that may share this tensor's memory. */
    private Tensor view(String name, Supplier<org.bytedeco.pytorch.Tensor> operation) {
        try {
            return new Tensor(operation.get(), anchor);
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, this);
        }
    }

    /** As {@link #op}, for calls that make scalars, optionals and the like on the way. */
    private Tensor temps(String name, Supplier<org.bytedeco.pytorch.Tensor> operation, Tensor... others) {
        return scoped(name, null, operation, prepend(others));
    }

    /** Another handle on this very tensor: closing either leaves the other, and what hangs on one hangs on both. */
    Tensor alias() {
        return new Tensor(new org.bytedeco.pytorch.Tensor(handle), null);
    }

    /** A tensor that libtorch lends for the length of a call. */
    static Tensor lent(TensorBase borrowed) {
        return new Tensor(new org.bytedeco.pytorch.Tensor(borrowed), null);
    }

    static Tensor call(String name, Supplier<org.bytedeco.pytorch.Tensor> operation, Tensor... operands) {
        try {
            return new Tensor(operation.get(), null);
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, operands);
        }
    }

    private static Tensor scoped(
            String name, @Nullable Object anchor, Supplier<org.bytedeco.pytorch.Tensor> operation, Tensor... operands) {
        try (PointerScope temporaries = new PointerScope()) {
            org.bytedeco.pytorch.Tensor result = operation.get();
            Scope.handOut(result, temporaries);
            return new Tensor(result, anchor);
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, operands);
        }
    }

    private Tensor inPlace(String name, Runnable operation, Tensor... others) {
        try (PointerScope temporaries = new PointerScope()) {
            operation.run(); // gives a second handle to this tensor, dropped with the temporaries
            return this;
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, prepend(others));
        }
    }

    private List<Tensor> pair(String name, Supplier<T_TensorTensor_T> operation) {
        try (PointerScope temporaries = new PointerScope()) {
            T_TensorTensor_T result = operation.get();
            return List.of(owned(result.get0(), temporaries), owned(result.get1(), temporaries));
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, this);
        }
    }

    private List<Tensor> triple(String name, Supplier<T_TensorTensorTensor_T> operation) {
        try (PointerScope temporaries = new PointerScope()) {
            T_TensorTensorTensor_T result = operation.get();
            return List.of(
                    owned(result.get0(), temporaries),
                    owned(result.get1(), temporaries),
                    owned(result.get2(), temporaries));
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, this);
        }
    }

    private List<Tensor> splits(String name, Supplier<TensorVector> operation) {
        try (PointerScope temporaries = new PointerScope()) {
            TensorVector pieces = operation.get();
            Tensor[] tensors = new Tensor[(int) pieces.size()];
            for (int i = 0; i < tensors.length; i++) {
                org.bytedeco.pytorch.Tensor piece = new org.bytedeco.pytorch.Tensor(pieces.get(i));
                Scope.handOut(piece, temporaries);
                tensors[i] = new Tensor(piece, anchor);
            }
            return List.of(tensors);
        } catch (RuntimeException e) {
            throw TensorException.of(name, e, this);
        }
    }

    /** Copies a handle that borrows from a tuple, so that it outlives the tuple. */
    private static Tensor owned(org.bytedeco.pytorch.Tensor borrowed, PointerScope temporaries) {
        org.bytedeco.pytorch.Tensor copy = new org.bytedeco.pytorch.Tensor(borrowed);
        Scope.handOut(copy, temporaries);
        return new Tensor(copy, null);
    }

    private Tensor[] prepend(Tensor... others) {
        Tensor[] all = new Tensor[others.length + 1];
        all[0] = this;
        System.arraycopy(others, 0, all, 1, others.length);
        return all;
    }

    private static TensorOptional optional(@Nullable Tensor tensor) {
        return tensor == null ? new TensorOptional() : new TensorOptional(tensor.handle);
    }

    private static TensorVector vector(List<Tensor> tensors) {
        return new TensorVector(tensors.stream().map(t -> t.handle).toArray(org.bytedeco.pytorch.Tensor[]::new));
    }

    private static TensorOptions options(DType dtype, Device device) {
        return new TensorOptions(toNative(dtype))
                .device(new org.bytedeco.pytorch.DeviceOptional(new org.bytedeco.pytorch.Device(device.toString())));
    }

    private static Tensor sized(int length, DType dtype, long... shape) {
        long[] wanted = shape.length == 0 && length != 1 ? new long[] {length} : shape;
        Check.check(
                length == numel(wanted),
                "%d values were given for a tensor of shape %s, which has %d",
                length,
                Arrays.toString(wanted),
                numel(wanted));
        return empty(dtype, wanted);
    }

    private static long numel(long[] shape) {
        long n = 1;
        for (long size : shape) {
            n = Math.multiplyExact(n, size);
        }
        return n;
    }

    private static ScalarType toNative(DType dtype) {
        return switch (dtype) {
            case FLOAT32 -> ScalarType.Float;
            case FLOAT64 -> ScalarType.Double;
            case BFLOAT16 -> ScalarType.BFloat16;
            case FLOAT16 -> ScalarType.Half;
            case INT64 -> ScalarType.Long;
            case INT32 -> ScalarType.Int;
            case INT16 -> ScalarType.Short;
            case UINT8 -> ScalarType.Byte;
            case BOOL -> ScalarType.Bool;
        };
    }

    private static DType fromNative(ScalarType type) {
        return switch (type) {
            case Float -> DType.FLOAT32;
            case Double -> DType.FLOAT64;
            case BFloat16 -> DType.BFLOAT16;
            case Half -> DType.FLOAT16;
            case Long -> DType.INT64;
            case Int -> DType.INT32;
            case Short -> DType.INT16;
            case Byte -> DType.UINT8;
            case Bool -> DType.BOOL;
            default -> throw new IllegalStateException("libtorch gave a tensor of type " + type);
        };
    }
}
