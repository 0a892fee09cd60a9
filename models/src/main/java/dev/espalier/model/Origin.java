package dev.espalier.model;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.io.InputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** Where a model came from: what a run or an adapter records, to be recognised on another day. */
public final class Origin {

    private static final int SLICE = 1 << 20;

    private final String name;
    private final List<Content> weights;
    private @Nullable String sha256;

    /** @param weights the files in the order of their names */
    Origin(String name, List<Content> weights) {
        this.name = name;
        this.weights = List.copyOf(weights);
    }

    /** What was asked for: a built-in's name, a path, or an id of a hub. */
    public String name() {
        return name;
    }

    /** SHA-256 of the weights' files one after the other, in hexadecimal; they are read when this is first asked. */
    public synchronized String sha256() {
        if (sha256 == null) {
            sha256 = hash();
        }
        return sha256;
    }

    private String hash() {
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            byte[] slice = new byte[SLICE];
            for (Content content : weights) {
                try (InputStream in = content.open()) {
                    for (int n = in.read(slice); n >= 0; n = in.read(slice)) {
                        digest.update(slice, 0, n);
                    }
                }
            }
            return HexFormat.of().formatHex(digest.digest());
        } catch (IOException e) {
            throw new EspalierException("the weights of %s cannot be read again: %s".formatted(name, e), e);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e); // every Java has SHA-256
        }
    }
}
