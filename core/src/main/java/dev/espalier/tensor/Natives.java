package dev.espalier.tensor;

import com.sun.jna.Library;
import com.sun.jna.Native;
import com.sun.jna.Platform;
import java.util.LinkedHashMap;
import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Prepares the process before the first native class loads.
 *
 * <p>OpenBLAS and libgomp each keep a pool of spinning threads; together they run at a third of their speed. Both read
 * the environment once, when loaded, and only there, so it is set in this process through the C library, unless the
 * user has set it already.
 *
 * <p>OpenBLAS's threads go on spinning between products. Where there are two cores that leaves none for a second thread of
 * libgomp's, and a training step takes longer with it than without: there only the products are shared out.
 */
final class Natives {

    private static final Logger LOG = LoggerFactory.getLogger(Natives.class);
    private static final Map<String, String> WANTED = wanted();

    static {
        for (Map.Entry<String, String> variable : WANTED.entrySet()) {
            if (System.getenv(variable.getKey()) == null) {
                setenv(variable.getKey(), variable.getValue());
            }
        }
        // The cap that JavaCPP ties to the heap counts the whole process, mapped files included.
        if (System.getProperty("org.bytedeco.javacpp.maxphysicalbytes") == null) {
            System.setProperty("org.bytedeco.javacpp.maxphysicalbytes", "0");
        }
        if (System.getProperty("org.bytedeco.javacpp.maxbytes") == null) {
            System.setProperty("org.bytedeco.javacpp.maxbytes", "0");
        }
    }

    private Natives() {}

    /** Runs the static initialiser above; every class here that touches JavaCPP calls it first. */
    static void prepare() {}

    /** The variables set, and their values unless the user's own were there. */
    static Map<String, String> environment() {
        Map<String, String> seen = new LinkedHashMap<>();
        WANTED.forEach((name, value) -> {
            String outer = System.getenv(name);
            seen.put(name, outer == null ? value : outer);
        });
        return seen;
    }

    /** As OpenBLAS reads its own variable: what is no number does not count. */
    static int productThreads() {
        String asked = environment().getOrDefault("OPENBLAS_NUM_THREADS", "");
        return asked.matches("[0-9]{1,4}") ? Integer.parseInt(asked) : 0;
    }

    private static Map<String, String> wanted() {
        int cores = Machine.physicalCores();
        String threads = Integer.toString(cores);
        Map<String, String> variables = new LinkedHashMap<>();
        variables.put("OMP_WAIT_POLICY", "passive");
        variables.put("OMP_NUM_THREADS", cores <= 2 ? "1" : threads);
        variables.put("OPENBLAS_NUM_THREADS", threads);
        return variables;
    }

    private static void setenv(String name, String value) {
        try {
            if (Platform.isWindows()) {
                Native.load("msvcrt", WindowsC.class)._putenv_s(name, value);
            } else {
                Native.load("c", PosixC.class).setenv(name, value, 1);
            }
        } catch (UnsatisfiedLinkError e) {
            LOG.warn(
                    "{} could not be set to {}: set it in the environment, or training may be three times slower",
                    name,
                    value);
        }
    }

    interface PosixC extends Library {
        int setenv(String name, String value, int overwrite);
    }

    interface WindowsC extends Library {
        int _putenv_s(String name, String value);
    }
}
