package dev.espalier.data;

import dev.espalier.tensor.Seed;

/** Permutations that are the same on every JVM and machine. */
final class Order {

    private Order() {}

    /** The permutation of 0 to n-1 that a seed decides, by Fisher and Yates. */
    static int[] permutation(int n, Seed seed) {
        int[] order = new int[n];
        for (int i = 0; i < n; i++) {
            order[i] = i;
        }
        for (int i = n - 1; i > 0; i--) {
            // The high 32 bits times the bound, as a fixed-point fraction: bias below n / 2^32.
            int j = (int) (((seed.at(i).value() >>> 32) * (i + 1L)) >>> 32);
            int swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        return order;
    }
}
