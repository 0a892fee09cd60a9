package dev.espalier.report;

import static org.assertj.core.api.Assertions.assertThat;

import dev.espalier.compare.StudyResult;
import dev.espalier.io.Json;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ReportTest {

    @TempDir
    private Path folder;

    @Test
    void theFileIsThePage() throws Exception {
        Path file = folder.resolve("new/report.html");
        Report.write(Studies.sample(), file);
        assertThat(Files.readString(file)).isEqualTo(Report.page(Studies.sample()));
        assertThat(Files.size(file)).isLessThan(400_000);
    }

    @Test
    void thePageNamesNothingOutsideItself() {
        String page = Report.page(Studies.sample());
        assertThat(page)
                .contains("default-src 'none'; img-src data:; style-src 'sha256-")
                .doesNotContain("{{");
        assertThat(page).doesNotContainPattern("(src|href)=\"?(https?:)?//").doesNotContain("sourceMappingURL");
    }

    @Test
    void itsDataAreTheStudysToTheLastBit() {
        StudyResult study = Studies.sample();
        assertThat(withoutDrawn(data(study))).isEqualTo(withoutDrawn(Json.parse("study", Json.text(study.json()))));
    }

    @Test
    void longCurvesAreThinnedToTheMeansOfNeighbours() {
        StudyResult study = Studies.changed(json -> measured(json).put("curve", points(1001)));
        List<Map<String, Object>> curve = Studies.list(measured(data(study)), "curve");
        assertThat(curve).hasSize(143);
        assertThat(curve.get(0)).isEqualTo(Map.of("step", 7L, "loss", 4.0)); // 1 to 7
        assertThat(curve.get(142)).isEqualTo(Map.of("step", 1001L, "loss", 998.0)); // 995 to 1001
    }

    @Test
    void drawnFiguresHaveTheDigitsOfADrawing() {
        StudyResult study =
                Studies.changed(json -> measured(json).put("curve", List.of(Map.of("step", 1L, "loss", 1.23456789))));
        assertThat(Studies.list(measured(data(study)), "curve")).containsExactly(Map.of("step", 1L, "loss", 1.2346));
    }

    @Test
    void textsOfAStudyCannotBecomeMarkup() {
        String page = Report.page(Studies.hostile());
        assertThat(page).doesNotContain(Studies.HOSTILE).contains("<title>&lt;/script&gt;&lt;script&gt;");
        assertThat(Studies.at(data(page), "terms")).containsEntry("reference", "lora");
        assertThat(data(page)).containsEntry("name", Studies.HOSTILE);
    }

    @Test
    void textThatLooksLikeAPlaceOfTheTemplateStays() {
        StudyResult study = Studies.changed(json -> json.put("name", "{{script}} $1 \\"));
        assertThat(Report.page(study)).contains("<title>{{script}} $1 \\</title>");
    }

    private static Map<String, Object> data(StudyResult study) {
        return data(Report.page(study));
    }

    private static Map<String, Object> data(String page) {
        Matcher data = Pattern.compile("<script type=\"application/json\" id=\"data\">(.*?)</script>")
                .matcher(page);
        assertThat(data.find()).isTrue();
        return Json.parse("page", data.group(1));
    }

    private static Map<String, Object> measured(Map<String, Object> json) {
        return Studies.at(
                Studies.list(Studies.list(json, "methods").get(0), "runs").get(0), "measured");
    }

    private static List<Map<String, Object>> points(int count) {
        List<Map<String, Object>> points = new ArrayList<>();
        for (long step = 1; step <= count; step++) {
            points.add(Map.of("step", step, "loss", (double) step));
        }
        return points;
    }

    private static Map<String, Object> withoutDrawn(Map<String, Object> json) {
        for (Map<String, Object> method : Studies.list(json, "methods")) {
            for (Map<String, Object> run : Studies.list(method, "runs")) {
                if (run.get("measured") != null) {
                    Studies.at(run, "measured").keySet().removeAll(List.of("curve", "layers"));
                }
            }
        }
        return json;
    }
}
