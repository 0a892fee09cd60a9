package dev.espalier.data;

/** Permutations that are the same on every JVM and machine. */
final class Order {

    private Order() {}

    /**
     * A permutation of 0 to n-1, by Fisher and Yates.
     *
     * @param keys decide it: the same keys, the same permutation
     */
    static int[] permutation(int n, long... keys) {
        long state = 0;
        for (long key : keys) {
            state = mix(state ^ key);
        }
        int[] order = new int[n];
        for (int i = 0; i < n; i++) {
            order[i] = i;
        }
        for (int i = n - 1; i > 0; i--) {
            state += 0x9E3779B97F4A7C15L;
            // The high 32 bits times the bound, as a fixed-point fraction: bias below n / 2^32.
            int j = (int) (((mix(state) >>> 32) * (i + 1L)) >>> 32);
            int swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        return order;
    }

    /** SplitMix64's finaliser: Steele, Lea, Flood, <i>Fast splittable pseudorandom number generators</i>, OOPSLA 2014. */
    private static long mix(long z) {
        z += 0x9E3779B97F4A7C15L;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }
}
