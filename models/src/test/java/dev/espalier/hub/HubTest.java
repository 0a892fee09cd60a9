package dev.espalier.hub;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class HubTest {

    @TempDir
    Path cache;

    private final FakeHub server = new FakeHub();
    private final byte[] weights = new byte[300_000];
    private final List<String> progress = new ArrayList<>();

    @BeforeEach
    void fill() {
        new Random(1).nextBytes(weights);
        server.files.put("config.json", "{}".getBytes(UTF_8));
        server.files.put("README.md", "not needed".getBytes(UTF_8));
        server.files.put("pytorch_model.bin", "never".getBytes(UTF_8));
        server.files.put("tokenizer.json", "{\"a\":1}".getBytes(UTF_8));
        server.files.put("model.safetensors", weights);
    }

    @AfterEach
    void stop() {
        server.close();
    }

    private Hub hub(boolean offline) {
        HubOptions options = new HubOptions(server.address(), "secret", cache, offline);
        Progress listener = (file, done, total) -> progress.add(file + " " + done + "/" + total);
        return new Hub(options, new HubClient(options, listener, Duration.ofMillis(5), Duration.ofMillis(1_000)));
    }

    private Path fetch(String model) {
        return ((Located.Local) hub(false).resolve(model)).path();
    }

    private void refuses(String model, String message) {
        assertThatThrownBy(() -> hub(false).resolve(model))
                .isInstanceOf(EspalierException.class)
                .hasMessage(message.replace("HUB", server.address().toString()));
    }

    private List<String> cached() throws IOException {
        try (Stream<Path> files = Files.walk(cache)) {
            return files.filter(Files::isRegularFile)
                    .map(f -> cache.relativize(f).toString().replace('\\', '/'))
                    .sorted()
                    .toList();
        }
    }

    @Test
    void aModelIsFetchedVerifiedAndKeptInTheLayoutOfHuggingFace() throws IOException {
        Path folder = fetch("org/name");
        assertThat(folder).isEqualTo(cache.resolve("models--org--name/snapshots/" + FakeHub.COMMIT));
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);
        String snapshot = "models--org--name/snapshots/" + FakeHub.COMMIT + "/";
        assertThat(cached())
                .containsExactly(
                        "models--org--name/.lock",
                        "models--org--name/refs/main",
                        snapshot + "config.json",
                        snapshot + "model.safetensors",
                        snapshot + "tokenizer.json");
        assertThat(cache.resolve("models--org--name/refs/main")).hasContent(FakeHub.COMMIT);
        assertThat(progress)
                .contains("model.safetensors 0/300000", "model.safetensors 300000/300000", "config.json 2/2");
        server.log.clear();
        fetch("org/name");
        assertThat(server.log).containsExactly("hub /api/models/org/name/revision/main null Bearer secret");
        server.log.clear();
        fetch("org/name@" + FakeHub.COMMIT);
        assertThat(server.log).isEmpty();
    }

    @Test
    void theTokenIsNotSentToTheStorageHost() {
        fetch("org/name");
        assertThat(server.log)
                .contains(
                        "hub /org/name/resolve/" + FakeHub.COMMIT + "/model.safetensors null Bearer secret",
                        "storage /model.safetensors null null");
        HubOptions options = new HubOptions(server.address(), "secret", cache, false);
        assertThat(options.toString()).doesNotContain("secret");
    }

    @Test
    void aBrokenDownloadGoesOnWhereItStopped() throws IOException {
        server.cuts.add(100_000);
        server.cuts.add(50_000);
        Path folder = fetch("org/name");
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);
        List<String> ranges = server.log.stream()
                .filter(l -> l.startsWith("storage"))
                .map(l -> l.split(" ")[2])
                .toList();
        assertThat(ranges).hasSize(3).first().isEqualTo("null");
        // How much of a cut body arrives is the operating system's choice; that the next request starts there is ours.
        assertThat(ranges.get(1)).matches("bytes=\\d+-");
        assertThat(ranges.get(2)).matches("bytes=\\d+-");
    }

    @Test
    void aPartLeftByAnEarlierRunIsCompletedAndVerified() throws IOException {
        Path folder = Files.createDirectories(cache.resolve("models--org--name/snapshots/" + FakeHub.COMMIT));
        Path part = folder.resolve("model.safetensors.part");
        Files.write(part, java.util.Arrays.copyOf(weights, 120_000));
        fetch("org/name");
        assertThat(server.log).contains("storage /model.safetensors bytes=120000- null");
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);
        assertThat(part).doesNotExist();

        Files.delete(folder.resolve("model.safetensors"));
        Files.write(part, weights); // whole already: the server has nothing behind it
        fetch("org/name");
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);

        Files.delete(folder.resolve("model.safetensors"));
        Files.write(part, new byte[120_000]); // of other content: found by the checksum, fetched anew
        fetch("org/name");
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);

        Files.delete(folder.resolve("model.safetensors"));
        Files.write(part, java.util.Arrays.copyOf(weights, 120_000));
        server.ignoresRanges = true; // sends the whole file: the part is overwritten, not appended to
        fetch("org/name");
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);
    }

    @Test
    void aWrongChecksumNeverGetsTheFilesName() throws IOException {
        server.corrupt = true;
        refuses(
                "org/name",
                "org/name: HUB failed 5 times (model.safetensors arrived with a wrong checksum); try again later, "
                        + "the download goes on where it stopped");
        assertThat(cached()).noneMatch(f -> f.contains("model.safetensors")).noneMatch(f -> f.contains("refs"));
    }

    @Test
    void busyServersAreTriedAgain() {
        server.statuses.addAll(List.of(503, 429, 500));
        assertThat(fetch("org/name").resolve("config.json")).exists();
        server.statuses.addAll(List.of(503, 503, 503, 503, 503));
        Path other = cache.resolve("empty");
        HubOptions options = new HubOptions(server.address(), null, other, false);
        Hub hub =
                new Hub(options, new HubClient(options, Progress.SILENT, Duration.ofMillis(1), Duration.ofSeconds(1)));
        assertThatThrownBy(() -> hub.resolve("org/name"))
                .hasMessage("org/name: " + server.address() + " failed 5 times (the server answered 503); "
                        + "try again later, the download goes on where it stopped");
    }

    @Test
    void aSilentServerIsLeftAndAskedAgain() throws IOException {
        server.silent = true;
        server.cuts.add(100_000);
        server.cuts.add(200_000);
        Path folder = fetch("org/name");
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(weights);
        assertThat(server.log).anyMatch(l -> l.matches("storage /model.safetensors bytes=\\d+- null"));
    }

    @Test
    void offlineUsesTheCacheOrSaysWhatIsMissing() {
        assertThatThrownBy(() -> hub(true).resolve("org/name"))
                .hasMessage("org/name: HF_HUB_OFFLINE is set and " + cache.resolve("models--org--name")
                        + " lacks the model's files; unset it once, or copy the model there");
        Path folder = fetch("org/name");
        server.log.clear();
        assertThat(hub(true).resolve("org/name")).isEqualTo(new Located.Local(folder));
        assertThatThrownBy(() -> hub(true).resolve("org/name/q4.gguf"))
                .hasMessageContaining("lacks q4.gguf; unset it once");
        assertThat(server.log).isEmpty();
    }

    @Test
    void aServerOutOfReachIsNoObstacleToWhatIsCached() {
        Path folder = fetch("org/name");
        server.close();
        assertThat(fetch("org/name")).isEqualTo(folder);
    }

    @Test
    void refusalsAreExplained() {
        refuses(
                "org/other",
                "org/other: HUB has no such model or file, and no file or folder here is called so; check the name");
        refuses("org/name@gone", "org/name@gone: HUB has the model, but not this revision; check what follows the @");
        server.statuses.add(401);
        refuses(
                "org/name",
                "org/name: HUB answered 401: there is no such model, or HF_TOKEN may not read it; check both");
        server.statuses.add(403);
        refuses(
                "org/name",
                "org/name: HUB answered 403: access is restricted; accept the model's terms there with the account "
                        + "of your HF_TOKEN");
        server.statuses.add(400);
        refuses("org/name", "org/name: HUB answered 400; check HF_ENDPOINT and the name");
    }

    @Test
    void renamedRepositoriesAreFollowed() {
        assertThat(fetch("old-name").resolve("model.safetensors")).exists();
    }

    @Test
    void shardsAreThoseOfTheIndex() {
        server.files.remove("model.safetensors");
        server.files.put("consolidated.safetensors", weights);
        server.files.put("model-1.safetensors", weights);
        server.files.put("model-2.safetensors", new byte[] {1});
        server.files.put(
                "model.safetensors.index.json",
                "{\"weight_map\":{\"a\":\"model-1.safetensors\",\"b\":\"model-2.safetensors\"}}".getBytes(UTF_8));
        Path folder = fetch("org/name");
        assertThat(folder.resolve("model-1.safetensors")).exists();
        assertThat(folder.resolve("model-2.safetensors")).exists();
        assertThat(folder.resolve("consolidated.safetensors")).doesNotExist();
        assertThat(hub(true).resolve("org/name")).isEqualTo(new Located.Local(folder));
    }

    @Test
    void oneGgufIsFetchedAlone() throws IOException {
        server.files.put("q4.gguf", weights);
        Path file = fetch("org/name/q4.gguf");
        assertThat(Files.readAllBytes(file)).isEqualTo(weights);
        assertThat(cached()).noneMatch(f -> f.endsWith("config.json"));
        refuses("org/name/q8.gguf", "org/name/q8.gguf: the repository has no such file; its GGUF files are q4.gguf");
        server.files.remove("model.safetensors");
        refuses(
                "org/name",
                "org/name: the repository has no safetensors, and pickled weights are never read; "
                        + "name one of its GGUF files, as in org/name/q4.gguf");
    }

    @ParameterizedTest
    @ValueSource(strings = {"../evil.safetensors", "/etc/passwd", "a/../../b", "C:evil", "a\\\\b", "a//b"})
    void namesThatLeaveTheFolderAreRefused(String name) throws IOException {
        server.listedOnly.add(name.replace("\\\\", "\\"));
        refuses(
                "org/name",
                "org/name: the name \"" + name.replace("\\\\", "\\")
                        + "\" could leave the cache folder; it is refused");
        assertThat(cached()).containsExactly("models--org--name/.lock");
    }

    @Test
    void builtInsFoldersAndFilesNeedNoNetwork() throws IOException {
        assertThat(hub(false).resolve("minilm")).isEqualTo(new Located.BuiltIn("minilm"));
        assertThat(hub(false).resolve(cache.toString())).isEqualTo(new Located.Local(cache));
        Path file = Files.writeString(cache.resolve("a.gguf"), "x");
        assertThat(hub(false).resolve(file.toString())).isEqualTo(new Located.Local(file));
        Path absent = cache.resolve("absent");
        refuses(
                absent.toString(),
                "\"" + absent + "\" is no built-in model (minilm), no file or folder that exists, and no id as in "
                        + "org/name; check it");
        assertThat(server.log).isEmpty();
    }

    @Test
    void theEnvironmentDecidesWhereModelsComeFrom() {
        HubOptions plain = HubOptions.fromEnvironment(Map.of());
        assertThat(plain.endpoint()).isEqualTo(URI.create("https://huggingface.co"));
        assertThat(plain.cache()).isEqualTo(Path.of(System.getProperty("user.home"), ".cache", "espalier", "hub"));
        assertThat(plain.offline()).isFalse();
        HubOptions set = HubOptions.fromEnvironment(Map.of(
                "HF_ENDPOINT", "http://mirror:8080/", "HF_TOKEN", "t", "HF_HOME", "home", "HF_HUB_OFFLINE", "TRUE"));
        assertThat(set).isEqualTo(new HubOptions(URI.create("http://mirror:8080"), "t", Path.of("home", "hub"), true));
        assertThatThrownBy(() -> HubOptions.fromEnvironment(Map.of("HF_ENDPOINT", "mirror")))
                .hasMessage("HF_ENDPOINT must be an http or https address, found \"mirror\"; unset it for "
                        + "https://huggingface.co");
    }
}
