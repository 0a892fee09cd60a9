package dev.espalier.tensor;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.pytorch.global.torch;

/** What this machine has, and what of it this process uses. */
public final class Machine {

    private static final Path CPUINFO = Path.of("/proc/cpuinfo");

    private Machine() {}

    /** Cores that compute: hardware threads that share a core count once; never more than the process may use. */
    public static int physicalCores() {
        int allowed = Runtime.getRuntime().availableProcessors();
        Set<String> cores = new HashSet<>();
        String socket = "0";
        for (String line : lines(CPUINFO)) {
            if (line.startsWith("physical id")) {
                socket = line;
            } else if (line.startsWith("core id")) {
                cores.add(socket + line);
            }
        }
        return cores.isEmpty() ? allowed : Math.max(1, Math.min(allowed, cores.size()));
    }

    /** The processor's name, or its architecture where the system does not tell. */
    public static String cpu() {
        return lines(CPUINFO).stream()
                .filter(line -> line.startsWith("model name"))
                .map(line -> line.substring(line.indexOf(':') + 1).strip())
                .findFirst()
                .orElse(System.getProperty("os.arch"));
    }

    /** Of the instruction sets that matter for speed, those present, such as {@code avx2}. */
    public static Set<String> cpuFeatures() {
        Set<String> wanted =
                Set.of("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve");
        Set<String> present = new TreeSet<>();
        for (String line : lines(CPUINFO)) {
            if (line.startsWith("flags") || line.startsWith("Features")) {
                present.addAll(
                        List.of(line.substring(line.indexOf(':') + 1).strip().split("\\s+")));
                break;
            }
        }
        present.retainAll(wanted);
        return present;
    }

    /** Whether bfloat16 products run in hardware; without it they are some hundred times slower than float32. */
    public static boolean hasBfloat16() {
        Set<String> features = cpuFeatures();
        return features.contains("avx512_bf16") || features.contains("amx_bf16") || features.contains("bf16");
    }

    /** Whether a CUDA device can be used. */
    public static boolean hasCuda() {
        Natives.prepare();
        return torch.cuda_is_available();
    }

    /** Threads that share a matrix product; other operations may use fewer. */
    public static int threads() {
        Natives.prepare();
        return Math.max(torch.get_num_threads(), Natives.productThreads());
    }

    /** The thread variables as libtorch saw them. */
    public static Map<String, String> threadEnvironment() {
        return Natives.environment();
    }

    /** Version of libtorch and its binding, such as {@code 2.10.0-1.5.13}. */
    public static String libtorch() {
        try {
            return Loader.getVersion("org.bytedeco", "pytorch");
        } catch (IOException e) {
            return "unknown";
        }
    }

    /** Bytes of this process in physical memory now. */
    public static long residentBytes() {
        Natives.prepare();
        long linux = status("VmRSS:");
        return linux >= 0 ? linux : Pointer.physicalBytes();
    }

    /** The most bytes of this process that were in physical memory at once, or the present ones where not told. */
    public static long peakResidentBytes() {
        long linux = status("VmHWM:");
        return linux >= 0 ? linux : residentBytes();
    }

    /** Processor time that this process has used, all its threads together; zero where not told. */
    public static Duration processorTime() {
        return ProcessHandle.current().info().totalCpuDuration().orElse(Duration.ZERO);
    }

    /** Bytes of physical memory in the machine, or -1 where not told. */
    public static long totalBytes() {
        return kibibytes(Path.of("/proc/meminfo"), "MemTotal:");
    }

    /** Bytes of physical memory that could still be used, or -1 where not told. */
    public static long availableBytes() {
        return kibibytes(Path.of("/proc/meminfo"), "MemAvailable:");
    }

    /** Native objects alive in this process: the figure that must stand still from step to step. */
    public static long liveNativeObjects() {
        Natives.prepare();
        return Pointer.totalCount();
    }

    private static long status(String key) {
        return kibibytes(Path.of("/proc/self/status"), key);
    }

    private static long kibibytes(Path file, String key) {
        for (String line : lines(file)) {
            if (line.startsWith(key)) {
                return 1024
                        * Long.parseLong(
                                line.substring(key.length()).replace("kB", "").strip());
            }
        }
        return -1;
    }

    private static List<String> lines(Path file) {
        try {
            return Files.isReadable(file) ? Files.readAllLines(file) : List.of();
        } catch (IOException e) {
            return List.of();
        }
    }
}
