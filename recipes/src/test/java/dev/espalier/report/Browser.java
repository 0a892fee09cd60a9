package dev.espalier.report;

import dev.espalier.io.Json;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** One page of a headless Chromium, driven by its DevTools protocol: https://chromedevtools.github.io/devtools-protocol. */
final class Browser implements AutoCloseable {

    /** Why a test without a browser does not run. */
    static final String MISSING =
            "no Chromium or Chrome on the PATH: install one (Debian, Ubuntu: apt-get install chromium), "
                    + "or name its program in ESPALIER_CHROMIUM";

    private static final Duration PATIENCE = Duration.ofSeconds(30);

    private final Process process;
    private final WebSocket socket;
    private final String session;
    private final AtomicLong calls = new AtomicLong();
    private final Map<Long, CompletableFuture<Map<String, Object>>> answers = new ConcurrentHashMap<>();
    private final List<String> faults = new CopyOnWriteArrayList<>();
    private final List<String> requests = new CopyOnWriteArrayList<>();
    private volatile CompletableFuture<Void> loaded = new CompletableFuture<>();

    /** The program, if there is one. */
    static Optional<Path> find() {
        String named = System.getenv("ESPALIER_CHROMIUM");
        if (named != null) {
            return Optional.of(Path.of(named));
        }
        Stream<Path> onPath = Stream.of(System.getenv("PATH").split(Pattern.quote(java.io.File.pathSeparator)))
                .flatMap(folder -> Stream.of("chromium", "chromium-browser", "google-chrome", "chrome.exe")
                        .map(name -> Path.of(folder, name)));
        Path mac = Path.of("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
        return Stream.concat(onPath, Stream.of(mac)).filter(Files::isExecutable).findFirst();
    }

    /** @param profile a folder, made if missing, for what the browser writes */
    Browser(Path program, Path profile) throws Exception {
        Files.createDirectories(profile);
        process = new ProcessBuilder(
                        program.toString(),
                        "--headless=new",
                        "--no-sandbox",
                        "--disable-gpu",
                        "--disable-quic",
                        "--no-first-run",
                        "--disable-background-networking",
                        "--disable-component-update",
                        "--disable-sync",
                        "--user-data-dir=" + profile,
                        "--remote-debugging-port=0",
                        "about:blank")
                .redirectErrorStream(true)
                .redirectOutput(profile.resolve("output.txt").toFile())
                .start();
        Path port = profile.resolve("DevToolsActivePort"); // its port, and the path of its socket
        List<String> lines = List.of();
        for (long end = System.nanoTime() + PATIENCE.toNanos(); lines.size() < 2; Thread.sleep(50)) {
            if (System.nanoTime() > end || !process.isAlive()) {
                process.destroyForcibly();
                throw new IOException(
                        "%s did not start:%n%s".formatted(program, Files.readString(profile.resolve("output.txt"))));
            }
            lines = Files.exists(port) ? Files.readAllLines(port) : lines;
        }
        socket = HttpClient.newHttpClient()
                .newWebSocketBuilder()
                .buildAsync(URI.create("ws://127.0.0.1:%s%s".formatted(lines.get(0), lines.get(1))), new Listener())
                .get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        Object target =
                send("Target.createTarget", Map.of("url", "about:blank"), null).get("targetId");
        session = (String) send("Target.attachToTarget", Map.of("targetId", target, "flatten", true), null)
                .get("sessionId");
        for (String domain : List.of("Page", "Runtime", "Log", "Network")) {
            send(domain + ".enable", Map.of());
        }
    }

    /** Opens a file in a window of that size, and forgets the faults and requests of those before. */
    void open(Path html, int width, int height) throws Exception {
        faults.clear();
        requests.clear();
        resize(width, height);
        loaded = new CompletableFuture<>();
        send("Page.navigate", Map.of("url", html.toUri().toString()));
        loaded.get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
    }

    void resize(int width, int height) throws Exception {
        send(
                "Emulation.setDeviceMetricsOverride",
                Map.of("width", width, "height", height, "deviceScaleFactor", 1, "mobile", width < 600));
    }

    /** Makes the system prefer {@code light} or {@code dark}. */
    void prefer(String scheme) throws Exception {
        send(
                "Emulation.setEmulatedMedia",
                Map.of("features", List.of(Map.of("name", "prefers-color-scheme", "value", scheme))));
    }

    /** The value of an expression, as JSON gives it. */
    Object evaluate(String expression) throws Exception {
        Map<String, Object> answer =
                send("Runtime.evaluate", Map.of("expression", expression, "returnByValue", true, "awaitPromise", true));
        if (answer.containsKey("exceptionDetails")) {
            throw new IOException(expression + ": " + answer.get("exceptionDetails"));
        }
        return ((Map<?, ?>) answer.get("result")).get("value");
    }

    /** Clicks the middle of an element, as a mouse does. */
    void click(String selector) throws Exception {
        List<?> at = (List<?>) evaluate("""
                (() => {
                  const e = document.querySelector(%s);
                  e.scrollIntoView({block: 'center'});
                  const r = e.getBoundingClientRect();
                  return [r.x + r.width / 2, r.y + r.height / 2];
                })()""".formatted(Json.text(selector)));
        for (String event : List.of("mousePressed", "mouseReleased")) {
            send(
                    "Input.dispatchMouseEvent",
                    Map.of("type", event, "x", at.get(0), "y", at.get(1), "button", "left", "clickCount", 1));
        }
    }

    /** Presses a key, such as {@code Tab} or {@code Enter}, on what has the focus. */
    void press(String key, int code) throws Exception {
        for (String event : List.of("keyDown", "keyUp")) {
            send(
                    "Input.dispatchKeyEvent",
                    Map.of(
                            "type",
                            event,
                            "key",
                            key,
                            "code",
                            key,
                            "windowsVirtualKeyCode",
                            code,
                            "text",
                            key.equals("Enter") ? "\r" : ""));
        }
    }

    /** Puts a text into a field in place of what was there, as typing does. */
    void type(String selector, String text) throws Exception {
        evaluate("document.querySelector(%s).select()".formatted(Json.text(selector)));
        send("Input.insertText", Map.of("text", text));
    }

    /** Errors and warnings of the console since the page was opened. */
    List<String> faults() {
        return faults;
    }

    /** Addresses asked for since the page was opened, its own among them. */
    List<String> requests() {
        return requests;
    }

    /** The whole page as a PNG. */
    void screenshot(Path png) throws Exception {
        Map<String, Object> shot =
                send("Page.captureScreenshot", Map.of("format", "png", "captureBeyondViewport", true));
        Files.createDirectories(png.getParent());
        Files.write(png, Base64.getDecoder().decode((String) shot.get("data")));
    }

    private Map<String, Object> send(String method, Map<String, Object> parameters) throws Exception {
        return send(method, parameters, session);
    }

    private Map<String, Object> send(String method, Map<String, Object> parameters, String to) throws Exception {
        long id = calls.incrementAndGet();
        CompletableFuture<Map<String, Object>> answer = new CompletableFuture<>();
        answers.put(id, answer);
        Map<String, Object> call =
                new java.util.LinkedHashMap<>(Map.of("id", id, "method", method, "params", parameters));
        if (to != null) {
            call.put("sessionId", to);
        }
        socket.sendText(Json.text(call), true).get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        return answer.get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
    }

    @SuppressWarnings("unchecked") // as the protocol says
    private void receive(Map<String, Object> message) {
        if (message.get("id") instanceof Long id) {
            CompletableFuture<Map<String, Object>> answer = answers.remove(id);
            if (message.containsKey("error")) {
                answer.completeExceptionally(
                        new IOException(message.get("error").toString()));
            } else {
                answer.complete((Map<String, Object>) message.get("result"));
            }
            return;
        }
        Map<String, Object> event = (Map<String, Object>) message.get("params");
        switch ((String) message.get("method")) {
            case "Page.loadEventFired" -> loaded.complete(null);
            case "Network.requestWillBeSent" ->
                requests.add(((Map<?, ?>) event.get("request")).get("url").toString());
            case "Runtime.exceptionThrown" -> faults.add(event.toString());
            case "Runtime.consoleAPICalled" -> {
                if (List.of("error", "warning", "assert").contains(event.get("type"))) {
                    faults.add(event.toString());
                }
            }
            case "Log.entryAdded" -> faults.add(event.toString());
            default -> {
                // of no interest here
            }
        }
    }

    /** Puts together messages that come in parts. */
    private final class Listener implements WebSocket.Listener {

        private final List<CharSequence> parts = new ArrayList<>();

        @Override
        public CompletionStage<?> onText(WebSocket from, CharSequence part, boolean last) {
            parts.add(part.toString());
            if (last) {
                String whole = String.join("", parts);
                parts.clear();
                receive(Json.parse("DevTools", whole));
            }
            from.request(1);
            return null;
        }
    }

    @Override
    public void close() throws Exception {
        try {
            send("Browser.close", Map.of(), null);
        } finally {
            if (!process.waitFor(10, TimeUnit.SECONDS)) {
                process.destroyForcibly().waitFor();
            }
        }
    }
}
