package dev.espalier.compare;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/** Each job in a process of its own: this JVM's java, options and class path. What goes wrong in one stays there. */
final class ProcessRunner implements Runner {

    /** Codes of a process that a signal ended: 128 and the signal's number. */
    private static final int SIGINT = 130;

    private static final int SIGKILL = 137;
    private static final int SIGTERM = 143;

    /** From an interrupt that all processes of a terminal get until this one has been told of it. */
    private static final long NOTICE_MILLIS = 1000;

    private final Set<Process> running = ConcurrentHashMap.newKeySet();
    private volatile boolean stopped;

    @Override
    public @Nullable String run(Job job, Path folder) throws InterruptedException {
        if (stopped) {
            throw new InterruptedException("stopped");
        }
        Path order = job.write(folder);
        Process process = start(job, order, folder);
        running.add(process);
        int code;
        try {
            if (stopped) {
                process.destroyForcibly();
            }
            code = process.waitFor();
        } catch (InterruptedException e) {
            process.destroyForcibly();
            throw e;
        } finally {
            running.remove(process);
        }
        if (code == SIGINT || code == SIGTERM || code == SIGKILL) {
            for (long waited = 0; !stopped && waited < NOTICE_MILLIS; waited += 50) {
                TimeUnit.MILLISECONDS.sleep(50);
            }
        }
        if (stopped) {
            throw new InterruptedException("stopped");
        }
        return code == 0 && job.isDone(folder) ? null : reason(job, folder, code);
    }

    @Override
    public void stop() {
        stopped = true;
        running.forEach(Process::destroyForcibly); // in good order libtorch would be torn down under its own threads
    }

    private static Process start(Job job, Path order, Path folder) {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(options());
        command.add("-cp");
        command.add(System.getProperty("surefire.test.class.path", System.getProperty("java.class.path")));
        command.add(Worker.class.getName());
        command.add(order.toString());
        ProcessBuilder builder = new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectOutput(job.log(folder).toFile());
        builder.environment().put("OMP_NUM_THREADS", Integer.toString(job.threads()));
        builder.environment().put("OPENBLAS_NUM_THREADS", Integer.toString(job.threads()));
        try {
            return builder.start();
        } catch (IOException e) {
            throw new EspalierException("no process could be started: %s".formatted(e.getMessage()), e);
        }
    }

    /** Those of this JVM that concern memory and modules; without any collector's name the serial one, as the launcher. */
    static List<String> options() {
        List<String> options = new ArrayList<>(ManagementFactory.getRuntimeMXBean().getInputArguments().stream()
                .filter(o -> o.startsWith("-X") || o.startsWith("--enable-native-access") || o.startsWith("--add-"))
                .toList());
        if (options.stream().noneMatch(o -> o.matches("-XX:\\+Use\\w+GC"))) {
            options.add("-XX:+UseSerialGC");
        }
        return options;
    }

    private static String reason(Job job, Path folder, int code) {
        try {
            if (Files.isRegularFile(job.complaint(folder))) {
                return Files.readString(job.complaint(folder)).strip();
            }
            String last = Files.isRegularFile(job.log(folder))
                    ? new String(Files.readAllBytes(job.log(folder)), StandardCharsets.UTF_8)
                            .lines()
                            .filter(line -> !line.isBlank())
                            .reduce((a, b) -> b)
                            .orElse("")
                    : "";
            return code == SIGKILL
                    ? "the process was killed (exit code 137), as the system does when memory runs out"
                    : "the process ended with exit code %d%s; its output is in %s"
                            .formatted(code, last.isEmpty() ? "" : " after \"" + last.strip() + "\"", job.log(folder));
        } catch (IOException e) {
            return "the process ended with exit code " + code;
        }
    }
}
