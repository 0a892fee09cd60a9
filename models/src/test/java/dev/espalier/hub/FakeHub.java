package dev.espalier.hub;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;

/** A hub with one repository, {@code org/name}, whose large files lie on a second host, as on the real one. */
final class FakeHub implements AutoCloseable {

    static final String COMMIT = "0123456789abcdef0123456789abcdef01234567";

    final Map<String, byte[]> files = new LinkedHashMap<>();
    /** Names in the listing beside those of {@link #files}. */
    final List<String> listedOnly = new CopyOnWriteArrayList<>();
    /** "HOST path range authorization" of each request. */
    final List<String> log = new CopyOnWriteArrayList<>();

    /** Bytes after which the storage host breaks off, one entry a request. */
    final List<Integer> cuts = new CopyOnWriteArrayList<>();
    /** Statuses that the hub answers with, one entry a request, before it behaves. */
    final List<Integer> statuses = new CopyOnWriteArrayList<>();

    volatile boolean corrupt;
    volatile boolean silent;
    volatile boolean ignoresRanges;

    private final HttpServer hub = start();
    private final HttpServer storage = start();

    FakeHub() {
        hub.createContext("/", this::answer);
        storage.createContext("/", this::store);
    }

    private static HttpServer start() {
        try {
            HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
            server.setExecutor(Executors.newCachedThreadPool(r -> {
                Thread thread = new Thread(r);
                thread.setDaemon(true);
                return thread;
            }));
            server.start();
            return server;
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }

    URI address() {
        return URI.create("http://localhost:" + hub.getAddress().getPort());
    }

    private void note(String host, HttpExchange exchange) {
        log.add("%s %s %s %s"
                .formatted(
                        host,
                        exchange.getRequestURI(),
                        exchange.getRequestHeaders().getFirst("Range"),
                        exchange.getRequestHeaders().getFirst("Authorization")));
    }

    private void answer(HttpExchange exchange) throws IOException {
        note("hub", exchange);
        String path = exchange.getRequestURI().getPath();
        try (exchange) {
            if (!statuses.isEmpty()) {
                exchange.sendResponseHeaders(statuses.remove(0), -1);
            } else if (path.equals("/api/models/old-name/revision/main")) {
                exchange.getResponseHeaders().set("Location", "/api/models/org/name/revision/main");
                exchange.sendResponseHeaders(307, -1);
            } else if (path.startsWith("/api/models/org/name/revision/")) {
                if (path.endsWith("/gone")) {
                    exchange.getResponseHeaders().set("X-Error-Code", "RevisionNotFound");
                    exchange.sendResponseHeaders(404, -1);
                    return;
                }
                String siblings = java.util.stream.Stream.concat(files.keySet().stream(), listedOnly.stream())
                        .map(name -> "{\"rfilename\":\"" + name.replace("\\", "\\\\") + "\"}")
                        .collect(Collectors.joining(","));
                byte[] json = ("{\"sha\":\"" + COMMIT + "\",\"siblings\":[" + siblings + "]}")
                        .getBytes(StandardCharsets.UTF_8);
                exchange.sendResponseHeaders(200, json.length);
                exchange.getResponseBody().write(json);
            } else if (path.matches("/(org/name|old-name)/resolve/" + COMMIT + "/.+")
                    && files.containsKey(path.split(COMMIT + "/")[1])) {
                String name = path.split(COMMIT + "/")[1];
                byte[] bytes = files.get(name);
                if (name.endsWith(".safetensors") || name.endsWith(".gguf")) {
                    exchange.getResponseHeaders().set("X-Linked-Etag", "\"" + digest("SHA-256", bytes) + "\"");
                    exchange.getResponseHeaders()
                            .set(
                                    "Location",
                                    "http://localhost:" + storage.getAddress().getPort() + "/" + name);
                    exchange.sendResponseHeaders(302, -1);
                } else {
                    byte[] header = ("blob " + bytes.length + "\0").getBytes(StandardCharsets.US_ASCII);
                    exchange.getResponseHeaders().set("ETag", "W/\"" + digest("SHA-1", header, bytes) + "\"");
                    exchange.sendResponseHeaders(200, bytes.length);
                    exchange.getResponseBody().write(bytes);
                }
            } else {
                exchange.sendResponseHeaders(404, -1);
            }
        }
    }

    private void store(HttpExchange exchange) throws IOException {
        note("storage", exchange);
        byte[] bytes =
                files.get(exchange.getRequestURI().getPath().substring(1)).clone();
        if (corrupt) {
            bytes[bytes.length / 2] ^= 1;
        }
        exchange.getResponseHeaders().set("ETag", "\"not the file's\"");
        String range = exchange.getRequestHeaders().getFirst("Range");
        int from = 0;
        int status = 200;
        if (range != null && !ignoresRanges) {
            from = Integer.parseInt(range.replaceAll("\\D", ""));
            status = 206;
        }
        try (exchange) {
            if (from >= bytes.length) {
                exchange.sendResponseHeaders(416, -1);
                return;
            }
            if (status == 206) {
                exchange.getResponseHeaders()
                        .set("Content-Range", "bytes %d-%d/%d".formatted(from, bytes.length - 1, bytes.length));
            }
            exchange.sendResponseHeaders(status, bytes.length - from);
            int to = cuts.isEmpty() ? bytes.length : from + cuts.remove(0);
            exchange.getResponseBody().write(Arrays.copyOfRange(bytes, from, to));
            exchange.getResponseBody().flush();
            if (silent) {
                Thread.sleep(3_000);
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static String digest(String algorithm, byte[]... parts) {
        try {
            MessageDigest digest = MessageDigest.getInstance(algorithm);
            for (byte[] part : parts) {
                digest.update(part);
            }
            return HexFormat.of().formatHex(digest.digest());
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    public void close() {
        hub.stop(0);
        storage.stop(0);
    }
}
