package dev.espalier.tensor;

/**
 * The one number from which a run's randomness grows: order of data, initial values, dropout, sampling.
 *
 * <p>Each use draws from a stream named after its purpose, so that adding one layer or one draw changes no other.
 *
 * @param value any number
 */
public record Seed(long value) {

    static final long GAMMA = 0x9e3779b97f4a7c15L; // SplitMix64's step

    /** A seed for one purpose: equal for equal seed and name, otherwise unrelated. */
    public Seed named(String name) {
        long hash = 0xcbf29ce484222325L; // FNV-1a, 64 bits
        for (int i = 0; i < name.length(); i++) {
            hash = (hash ^ name.charAt(i)) * 0x100000001b3L;
        }
        return new Seed(mix(value + mix(hash)));
    }

    /** A seed for the n-th of something, such as a training step. */
    public Seed at(long n) {
        return new Seed(mix(value + mix(n)));
    }

    /** A generator that starts from this seed. */
    public Generator generator() {
        return Generator.of(value);
    }

    /** The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that leaves no pattern. */
    static long mix(long z) {
        z += GAMMA;
        z = (z ^ (z >>> 30)) * 0xbf58476d1ce4e5b9L;
        z = (z ^ (z >>> 27)) * 0x94d049bb133111ebL;
        return z ^ (z >>> 31);
    }
}
