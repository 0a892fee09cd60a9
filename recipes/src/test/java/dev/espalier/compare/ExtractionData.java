package dev.espalier.compare;

import dev.espalier.io.AtomicFile;
import dev.espalier.io.Json;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;

/**
 * Makes the data of the study {@code smollm2-extraction}: orders in plain words, and what is ordered, how many and where to, in a fixed
 * form. {@code studies/extraction/*.jsonl} are this, written. No order stands in two splits.
 */
final class ExtractionData {

    static final Map<String, Integer> SIZES = sizes();

    private static final List<String> COUNTS =
            List.of("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve");

    private static final List<String> ITEMS = List.of(
            "bike lamp",
            "brake pad",
            "inner tube",
            "chain",
            "saddle",
            "pedal",
            "bell",
            "water bottle",
            "helmet",
            "tyre lever",
            "pump",
            "handlebar grip",
            "mudguard",
            "pannier",
            "child seat",
            "lock");

    private static final List<String> PLACES = List.of(
            "Oslo", "Lisbon", "Ghent", "Turin", "Cork", "Malaga", "Bergen", "Lyon", "Krakow", "Porto", "Aarhus", "Graz",
            "Utrecht", "Leeds");

    private static final List<String> WORDS = List.of(
            "Please send %s %s to our shop in %s.",
            "We are out again: %s %s, and the address is %3$s as always.",
            "Could you ship %s %s to %s by Friday?",
            "For the branch in %3$s I need %1$s %2$s, invoice to the head office.",
            "Order for %3$s: %1$s %2$s. Ring the bell twice.",
            "My colleague in %3$s asked for %1$s %2$s, not more.",
            "%3$s here. Add %1$s %2$s to the next delivery, thanks.",
            "I would like to order %s %s. Deliver to %s, please, not to the warehouse.");

    private ExtractionData() {}

    private static Map<String, Integer> sizes() {
        Map<String, Integer> sizes = new LinkedHashMap<>();
        sizes.put("train", 240);
        sizes.put("validation", 32);
        sizes.put("test", 60);
        return sizes;
    }

    /** Writes the splits into the folder that is named. */
    public static void main(String[] args) {
        make().forEach((split, text) -> AtomicFile.write(Path.of(args[0], split + ".jsonl"), text));
    }

    /** The content of each split's file. */
    static Map<String, String> make() {
        Random random = new Random(2026);
        Set<String> seen = new TreeSet<>();
        Map<String, String> splits = new LinkedHashMap<>();
        SIZES.forEach((split, size) -> {
            List<String> lines = new ArrayList<>();
            while (lines.size() < size) {
                int count = 1 + random.nextInt(COUNTS.size());
                String item = pick(random, ITEMS);
                String place = pick(random, PLACES);
                String order = String.format(
                        pick(random, WORDS), COUNTS.get(count - 1), count == 1 ? item : item + "s", place);
                if (seen.add(order)) {
                    lines.add(line(order, "%s | %d | %s".formatted(item, count, place)));
                }
            }
            splits.put(split, String.join("\n", lines) + "\n");
        });
        return splits;
    }

    private static String line(String order, String answer) {
        Map<String, Object> user = new LinkedHashMap<>();
        user.put("role", "user");
        user.put("content", order);
        Map<String, Object> assistant = new LinkedHashMap<>();
        assistant.put("role", "assistant");
        assistant.put("content", answer);
        return Json.text(Map.of("messages", List.of(user, assistant)));
    }

    private static String pick(Random random, List<String> from) {
        return from.get(random.nextInt(from.size()));
    }
}
