package dev.espalier.cli;

import dev.espalier.tensor.Device;
import dev.espalier.tensor.Machine;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** What this machine has, what is used of it, and what makes it slow. */
@Command(
        name = "doctor",
        description = "Shows versions, processor, threads, device and memory, and warns of what is slow.",
        footer = {"", "Example:  espalier doctor"})
final class DoctorCommand implements Callable<Integer> {

    private static final long LITTLE_MEMORY = 4L << 30; // a small language model trains in 3 GiB

    @Mixin
    private Terminal terminal = new Terminal();

    @Option(names = "--json", description = "print one JSON object")
    private boolean json;

    @Override
    public Integer call() {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("espalier", Main.version());
        facts.put("java", System.getProperty("java.version") + ", " + System.getProperty("java.vm.name"));
        facts.put("system", System.getProperty("os.name") + " " + System.getProperty("os.arch"));
        facts.put("processor", Machine.cpu());
        facts.put("instructions", String.join(" ", Machine.cpuFeatures()));
        facts.put("cores", Machine.physicalCores());
        facts.put("libtorch", Machine.libtorch());
        facts.put("threads", Machine.threads());
        Machine.threadEnvironment().forEach(facts::put);
        facts.put("device", Device.parse("auto").toString());
        facts.put("precision auto", Machine.hasBfloat16() || Machine.hasCuda() ? "bf16" : "fp32");
        facts.put("memory", Machine.totalBytes());
        facts.put("memory available", Machine.availableBytes());
        facts.put("heap at most", Runtime.getRuntime().maxMemory());
        List<String> warnings = warnings();
        if (json) {
            facts.put("warnings", warnings);
            terminal.json(facts);
            return Main.OK;
        }
        List<List<String>> rows = new ArrayList<>();
        facts.forEach((name, value) -> rows.add(List.of(
                name,
                name.startsWith("memory") || name.startsWith("heap") ? Terminal.bytes((long) value) : text(value))));
        terminal.table(rows);
        terminal.line("");
        warnings.forEach(warning -> terminal.line("warning: " + warning));
        if (warnings.isEmpty()) {
            terminal.line("Nothing here makes training slower than it needs to be.");
        }
        return Main.OK;
    }

    private static String text(@Nullable Object value) {
        return String.valueOf(value);
    }

    private static List<String> warnings() {
        List<String> warnings = new ArrayList<>();
        Map<String, String> environment = Machine.threadEnvironment();
        String wait = environment.get("OMP_WAIT_POLICY");
        if (!"passive".equalsIgnoreCase(wait)) {
            warnings.add("OMP_WAIT_POLICY is %s; with passive, training on a CPU runs up to three times as fast"
                    .formatted(wait == null ? "not set" : wait));
        }
        if (Machine.threads() > Machine.physicalCores()) {
            warnings.add("%d threads on %d cores slow each other down; set OMP_NUM_THREADS=%d"
                    .formatted(Machine.threads(), Machine.physicalCores(), Machine.physicalCores()));
        }
        if (!Machine.hasCuda() && !Machine.hasBfloat16()) {
            warnings.add("this processor has no bfloat16 arithmetic, so precision auto means fp32; bf16 would be some"
                    + " hundred times slower");
        }
        if (System.getProperty("os.arch").equals("amd64")
                && !Machine.cpuFeatures().contains("avx2")
                && !Machine.cpuFeatures().isEmpty()) {
            warnings.add("this processor has no AVX2; matrix products will be slow");
        }
        long available = Machine.availableBytes();
        if (available >= 0 && available < LITTLE_MEMORY) {
            warnings.add("only %s of memory are available; espalier plan RECIPE tells what a training needs"
                    .formatted(Terminal.bytes(available)));
        }
        return warnings;
    }
}
