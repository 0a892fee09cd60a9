/** Single operations that a training spends its time in, measured by JMH: {@code bench/jmh}. */
@NullMarked
package dev.espalier.bench.hot;

import org.jspecify.annotations.NullMarked;
