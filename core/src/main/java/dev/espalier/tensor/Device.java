package dev.espalier.tensor;

import dev.espalier.Check;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Where a tensor lives.
 *
 * @param kind processor or accelerator
 * @param index which of several, from 0; always 0 for the processor
 */
public record Device(Kind kind, int index) {

    /** Kinds of device. */
    public enum Kind {
        CPU,
        CUDA
    }

    /** The processor. */
    public static final Device CPU = new Device(Kind.CPU, 0);

    private static final Pattern NAME = Pattern.compile("(cpu|cuda)(?::(\\d{1,3}))?");

    /**
     * Reads {@code cpu}, {@code cuda} or {@code cuda:1}; {@code auto} is CUDA where there is one.
     *
     * @throws dev.espalier.EspalierException if the name is none of these, or CUDA is asked for and absent
     */
    public static Device parse(String name) {
        if (name.equals("auto")) {
            return Machine.hasCuda() ? new Device(Kind.CUDA, 0) : CPU;
        }
        Matcher matcher = NAME.matcher(name);
        Check.check(matcher.matches(), "device '%s' is unknown: use auto, cpu, cuda or cuda:N", name);
        Kind kind = Kind.valueOf(matcher.group(1).toUpperCase(Locale.ROOT));
        int index = matcher.group(2) == null ? 0 : Integer.parseInt(matcher.group(2));
        if (kind == Kind.CPU) {
            return CPU;
        }
        Check.check(
                Machine.hasCuda(),
                "device '%s' was asked for, but this build of libtorch sees no CUDA device: use cpu, or build with -Pcuda"
                        + " on a machine with an NVIDIA driver",
                name);
        return new Device(kind, index);
    }

    /** As PyTorch writes it. */
    @Override
    public String toString() {
        return kind == Kind.CPU ? "cpu" : "cuda:" + index;
    }
}
