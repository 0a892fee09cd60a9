package dev.espalier.report;

import dev.espalier.compare.StudyResult;
import dev.espalier.io.AtomicFile;
import dev.espalier.io.Json;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.math.MathContext;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * A study as one HTML file that needs nothing else: style, script, chart library and data stand in it.
 *
 * <p>The page holds the study as JSON and draws it with {@code report.js}, which puts text into the page as text. Its content
 * security policy allows no request, and no script but the page's two, named by their hashes: a method that is called {@code
 * <script>} stays a name. The charts are drawn by Chart.js, whose licence (MIT) stands at the page's end.
 */
public final class Report {

    /** Points of a loss curve in the page at most: a screen shows no more. */
    static final int CURVE_POINTS = 150;

    /** What is drawn only, and needs no more digits than a line shows. */
    private static final Set<String> DRAWN = Set.of("curve", "singular_values", "relative_change");

    private static final MathContext DIGITS = new MathContext(5);

    private static final Pattern PLACE = Pattern.compile("\\{\\{(\\w+)}}");

    private Report() {}

    /**
     * Writes the page, atomically.
     *
     * @param file such as {@code report.html}
     */
    public static void write(StudyResult study, Path file) {
        AtomicFile.write(file, page(study));
    }

    static String page(StudyResult study) {
        String style = text("/report/report.css");
        String script = text("/report/report.js");
        String library = "/META-INF/resources/webjars/chart.js/%s/".formatted(chartsVersion());
        // The last line names a source map, which a browser's tools would ask for.
        String charts = text(library + "dist/chart.umd.min.js").replaceFirst("//# sourceMappingURL=.*\\s*$", "");
        Map<String, String> parts = Map.of(
                "title", escape(study.name()),
                "policy",
                        "default-src 'none'; img-src data:; style-src %s; script-src %s %s"
                                .formatted(hash(style), hash(charts), hash(script)),
                "style", style,
                "charts", charts,
                "license", escape(text(library + "LICENSE.md")),
                "data", data(study),
                "script", script);
        return PLACE.matcher(text("/report/report.html"))
                .replaceAll(place -> Matcher.quoteReplacement(Objects.requireNonNull(parts.get(place.group(1)))));
    }

    /** The study as JSON in which nothing can end the element that holds it. */
    private static String data(StudyResult study) {
        Object lean = Objects.requireNonNull(lean(study.json(), false));
        return Json.text(lean).replace("<", "\\u003c");
    }

    /** The same with curves of fewer points and drawn figures of fewer digits; all other figures stay to the last bit. */
    private static @Nullable Object lean(@Nullable Object value, boolean drawn) {
        if (value instanceof Map<?, ?> map) {
            Map<Object, @Nullable Object> leaner = new LinkedHashMap<>();
            map.forEach((key, v) -> leaner.put(
                    key, lean(key.equals("curve") ? thin((List<?>) v) : v, drawn || DRAWN.contains((String) key))));
            return leaner;
        } else if (value instanceof List<?> list) {
            List<@Nullable Object> leaner = new ArrayList<>();
            list.forEach(v -> leaner.add(lean(v, drawn)));
            return leaner;
        } else if (drawn && value instanceof Double d && Double.isFinite(d)) {
            return new BigDecimal(d).round(DIGITS).doubleValue();
        }
        return value;
    }

    /** A curve whose points are means of as many neighbours as it takes. */
    private static List<?> thin(List<?> curve) {
        int of = (curve.size() + CURVE_POINTS - 1) / CURVE_POINTS;
        if (of <= 1) {
            return curve;
        }
        List<Map<String, Object>> points = new ArrayList<>();
        for (int from = 0; from < curve.size(); from += of) {
            List<?> group = curve.subList(from, Math.min(from + of, curve.size()));
            double loss = group.stream()
                    .mapToDouble(point -> number(point, "loss").doubleValue())
                    .average()
                    .orElseThrow();
            points.add(Map.of("step", number(group.get(group.size() - 1), "step"), "loss", loss));
        }
        return points;
    }

    private static Number number(Object point, String key) {
        return (Number) Objects.requireNonNull(((Map<?, ?>) point).get(key));
    }

    private static String chartsVersion() {
        Properties properties = new Properties();
        try (InputStream in = open("/META-INF/maven/org.webjars.npm/chart.js/pom.properties")) {
            properties.load(in);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return properties.getProperty("version");
    }

    private static String text(String resource) {
        try (InputStream in = open(resource)) {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static InputStream open(String resource) {
        return Objects.requireNonNull(Report.class.getResourceAsStream(resource), resource);
    }

    /** As a content security policy names a script or style. */
    private static String hash(String text) {
        try {
            byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
            return "'sha256-%s'".formatted(Base64.getEncoder().encodeToString(digest));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e); // every Java has it
        }
    }

    private static String escape(String text) {
        return text.replace("&", "&amp;")
                .replace("<", "&lt;")
                .replace(">", "&gt;")
                .replace("\"", "&quot;");
    }
}
