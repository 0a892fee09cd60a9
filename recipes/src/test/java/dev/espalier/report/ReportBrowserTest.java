package dev.espalier.report;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.espalier.compare.StudyResult;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The report as a person meets it, in a real browser. Pictures of it are left in target/screenshots. */
class ReportBrowserTest {

    private static final String NAMES =
            "[...document.querySelectorAll('#decision tbody th a')].map(a => a.textContent)";

    @TempDir
    private static Path folder;

    private static Browser browser;

    @BeforeAll
    static void start() throws Exception {
        Optional<Path> program = Browser.find();
        assumeTrue(program.isPresent(), Browser.MISSING);
        browser = new Browser(program.get(), folder.resolve("profile"));
    }

    @AfterAll
    static void stop() throws Exception {
        if (browser != null) {
            browser.close();
        }
    }

    @AfterEach
    void nothingWentWrongAndNothingWasFetched() {
        assertThat(browser.faults()).isEmpty();
        assertThat(browser.requests())
                .allSatisfy(url -> assertThat(url).matches("(file:.*/report\\.html(#.*)?|data:.*)"));
    }

    @ParameterizedTest
    @CsvSource({"1280, light", "1280, dark", "390, light", "390, dark"})
    void theWholePageIsDrawnAtEachWidth(int width, String scheme) throws Exception {
        browser.prefer(scheme);
        open(Studies.sample(), width);
        browser.screenshot(Path.of("target/screenshots/report-%d-%s.png".formatted(width, scheme)));
        assertThat(browser.evaluate("document.documentElement.scrollWidth")).isEqualTo((long) width);
        assertThat(text("h1")).isEqualTo("sample: invented figures, nothing was run");
        assertThat(browser.evaluate("document.querySelectorAll('canvas').length"))
                .isEqualTo(5L);
        assertThat(browser.evaluate("[...document.querySelectorAll('canvas')].every(c => Chart.getChart(c))"))
                .isEqualTo(true);
        assertThat(browser.evaluate(
                        "document.querySelectorAll('section:empty, dl:empty, p:empty:not(#sorted)').length"))
                .isEqualTo(0L);
    }

    @ParameterizedTest
    @CsvSource({"1280", "390"})
    void aHeadingSortsBothWays(int width) throws Exception {
        open(Studies.sample(), width);
        List<String> best = names();
        assertThat(best).hasSize(6).endsWith("prompt-tuning");
        assertThat(sortOf(2)).isEqualTo("descending");
        browser.click("#decision thead th:nth-child(2) button");
        assertThat(names()).isEqualTo(reversed(best));
        assertThat(sortOf(2)).isEqualTo("ascending");

        browser.click("#decision thead th:nth-child(1) button");
        assertThat(names()).isSorted();
        assertThat(sortOf(1)).isEqualTo("ascending");
        assertThat(sortOf(2)).isEqualTo("none");
        assertThat(text("#sorted")).isEqualTo("Sorted by Method, ascending.");
    }

    @Test
    void theKeyboardSortsToo() throws Exception {
        open(Studies.sample(), 1280);
        browser.evaluate("document.querySelector('#decision thead th:nth-child(1) button').focus()");
        browser.press("Tab", 9);
        assertThat(browser.evaluate("document.activeElement.textContent")).isEqualTo("Accuracy");
        List<String> before = names();
        browser.press("Enter", 13);
        assertThat(names()).isEqualTo(reversed(before));
    }

    @Test
    void theBudgetPicksTheMethodSaysWhetherItIsBetterAndHowItIsRun() throws Exception {
        open(Studies.sample(), 1280);
        assertThat(text(".pick")).isEqualTo("pissa");
        assertThat(text("#choice"))
                .contains("Is it really better than lora?", "This study cannot tell", "inside the noise")
                .contains("espalier train pissa --set model=minilm");
        browser.type("#budget", "100");
        assertThat(text(".pick")).isEqualTo("prompt-tuning");
        assertThat(text("#choice")).contains("No, it is worse");
        browser.type("#budget", "10");
        assertThat(text(".pick")).isEqualTo("None fits");
        assertThat(text("#choice")).contains("Least takes prompt-tuning");
        browser.evaluate("""
                document.querySelector('#budget').value = 200;
                document.querySelector('#prefer').value = 1;
                document.querySelector('#prefer').dispatchEvent(new Event('change'))""");
        assertThat(text(".pick")).isEqualTo("lora"); // not told apart from pissa, with less memory
    }

    @Test
    void aButtonCopiesTheCommandWithOrWithoutAClipboard() throws Exception {
        open(Studies.sample(), 1280);
        String command = text("#choice .command code");
        browser.evaluate("""
                Object.defineProperty(navigator, 'clipboard', {configurable: true,
                    value: {writeText: async text => { window.copied = 'clipboard: ' + text; }}})""");
        browser.click("#choice .command button");
        assertThat(browser.evaluate("window.copied")).isEqualTo("clipboard: " + command);
        assertThat(text("#choice .command button")).isEqualTo("Copied");
        browser.evaluate("""
                Object.defineProperty(navigator, 'clipboard', {value: {writeText: () => Promise.reject()}});
                document.addEventListener('copy', () => { window.copied = 'by hand: ' + document.activeElement.value; })""");
        browser.click("#choice .command button");
        assertThat(browser.evaluate("window.copied")).isEqualTo("by hand: " + command);
    }

    @Test
    void darkAndLightChangeAtAButton() throws Exception {
        browser.prefer("light");
        open(Studies.sample(), 1280);
        Object light = background();
        browser.click("#theme");
        assertThat(browser.evaluate("document.querySelector('#theme').ariaPressed"))
                .isEqualTo("true");
        Object dark = background();
        assertThat(dark).isNotEqualTo(light);
        browser.click("#theme");
        assertThat(background()).isEqualTo(light);
        browser.evaluate("localStorage.clear()");
        browser.prefer("dark");
        open(Studies.sample(), 1280);
        assertThat(background()).isEqualTo(dark);
        browser.prefer("light");
    }

    @Test
    void aLinkToAMethodOpensItWithItsRecipe() throws Exception {
        open(Studies.sample(), 1280);
        browser.click("#decision tbody tr:nth-child(1) th a");
        assertThat(browser.evaluate("document.querySelector(location.hash).open"))
                .isEqualTo(true);
        assertThat(text(":target")).contains("pissa", "learningRate: 0.001", "Seed", "espalier train pissa");
    }

    @Test
    void whatFailedSaysWhyAndStaysBelow() throws Exception {
        open(Studies.hostile(), 1280);
        assertThat(text("#decision tbody tr:last-child")).contains("Failed: " + Studies.HOSTILE);
        browser.click("#decision thead th:nth-child(2) button");
        assertThat(text("#decision tbody tr:last-child")).contains("Failed: " + Studies.HOSTILE);
        assertThat(text("#caveats")).contains("3 of 3").contains("galore (1 of 3: the process was killed (137)");
    }

    @Test
    void textsThatLookLikeMarkupDoNothing() throws Exception {
        open(Studies.hostile(), 390);
        assertThat(browser.evaluate("typeof window.taken")).isEqualTo("undefined");
        assertThat(browser.evaluate("document.querySelectorAll('script').length"))
                .isEqualTo(3L);
        assertThat(browser.evaluate("document.querySelectorAll('img').length")).isEqualTo(0L);
        assertThat(text("h1")).isEqualTo(Studies.HOSTILE);
        assertThat(browser.evaluate("document.documentElement.scrollWidth")).isEqualTo(390L);
    }

    @Test
    void oneSeedIsSaidToGiveNoError() throws Exception {
        open(Studies.oneSeed(), 1280);
        assertThat(text("#caveats")).contains("One seed: no error can be given.");
        assertThat(text("#decision tbody tr:first-child")).contains("no error: one run");
        assertThat(text("#choice")).contains("With one seed no error over seeds can be given");
    }

    @Test
    void aStudyWithoutAnythingThatRanSaysSo() throws Exception {
        open(
                Studies.changed(json -> Studies.list(json, "methods").forEach(method -> {
                    method.put("summary", null);
                    Studies.list(method, "runs").forEach(run -> {
                        run.put("status", "failed");
                        run.put("failure", "the disk is full");
                        run.put("measured", null);
                    });
                })),
                1280);
        assertThat(text("#choice")).contains("No run ended well");
        assertThat(text("#decision")).contains("Failed: the disk is full");
    }

    private static void open(StudyResult study, int width) throws Exception {
        Path file = folder.resolve("report.html");
        Report.write(study, file);
        browser.open(file, width, 900);
    }

    private static String text(String selector) throws Exception {
        return (String) browser.evaluate("document.querySelector('%s').textContent".formatted(selector));
    }

    private static List<String> names() throws Exception {
        return ((List<?>) browser.evaluate(NAMES))
                .stream().map(String.class::cast).toList();
    }

    private static Object sortOf(int column) throws Exception {
        return browser.evaluate("document.querySelector('#decision th:nth-child(%d)').ariaSort".formatted(column));
    }

    private static Object background() throws Exception {
        return browser.evaluate("getComputedStyle(document.body).backgroundColor");
    }

    private static List<String> reversed(List<String> list) {
        List<String> copy = new ArrayList<>(list);
        Collections.reverse(copy);
        return copy;
    }
}
