package dev.espalier.io;

import java.nio.ByteBuffer;

/** Bytes at absolute positions. */
interface ByteReader {

    /** Fills {@code into} from a position. */
    void read(long position, ByteBuffer into);
}
