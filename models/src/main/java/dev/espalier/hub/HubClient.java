package dev.espalier.hub;

import static dev.espalier.Check.check;

import dev.espalier.EspalierException;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.HexFormat;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Speaks HTTP with a hub: redirects, retries, resumed and verified downloads. */
final class HubClient {

    private static final Logger LOG = LoggerFactory.getLogger(HubClient.class);
    private static final int ATTEMPTS = 5;
    private static final int REDIRECTS = 5;
    private static final int MAX_JSON = 64 << 20;
    private static final int CHUNK = 1 << 20;

    private final HubOptions options;
    private final Progress progress;
    private final Duration firstPause;
    private final Duration stall;
    private final HttpClient http;

    /**
     * @param firstPause before the second attempt; doubled before each further one
     * @param stall how long a server may stay silent before an attempt counts as failed
     */
    HubClient(HubOptions options, Progress progress, Duration firstPause, Duration stall) {
        this.options = options;
        this.progress = progress;
        this.firstPause = firstPause;
        this.stall = stall;
        this.http = HttpClient.newBuilder()
                .connectTimeout(stall)
                .followRedirects(HttpClient.Redirect.NEVER) // the JDK would carry the token to other hosts
                .build();
    }

    /** A request that may be tried again. */
    private interface Attempt<T> {
        T run() throws IOException, InterruptedException;
    }

    /** An answer that another attempt may better. */
    private static final class Busy extends IOException {
        private static final long serialVersionUID = 1L;

        Busy(String message) {
            super(message);
        }
    }

    /** The text at a path of the endpoint. */
    String text(String path, ModelId id) {
        return retrying(id, null, () -> {
            Reply reply = get(URI.create(options.endpoint() + path), 0, id);
            try (InputStream body = reply.body()) {
                byte[] bytes = body.readNBytes(MAX_JSON);
                check(bytes.length < MAX_JSON, "%s: the answer of %s is longer than 64 MiB", id, options.endpoint());
                return new String(bytes, StandardCharsets.UTF_8);
            }
        });
    }

    /**
     * Downloads a file, going on where an earlier download stopped, and verifies it.
     *
     * @param path of the endpoint
     * @param name of the file, for messages
     * @param target appears only when it is complete and its checksum is right
     */
    void download(String path, ModelId id, String name, Path target) {
        Path part = target.resolveSibling(target.getFileName() + ".part");
        retrying(id, part, () -> {
            Files.createDirectories(target.toAbsolutePath().getParent());
            long have = Files.exists(part) ? Files.size(part) : 0;
            Reply reply = get(URI.create(options.endpoint() + path), have, id);
            if (reply.status() == 416) {
                // Nothing lies behind the part: either it is whole, which its checksum tells, or it is rubbish.
                reply.body().close();
                if (!isExpected(part, reply.etag())) {
                    Files.delete(part);
                    throw new Busy("the partial file did not fit");
                }
            } else {
                receive(reply, part, name, id);
            }
            if (!isExpected(part, reply.etag())) {
                Files.delete(part);
                throw new Busy("%s arrived with a wrong checksum".formatted(name));
            }
            Files.move(part, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
            return target;
        });
    }

    private void receive(Reply reply, Path part, String name, ModelId id) throws IOException {
        long from = reply.start();
        long total = reply.length() < 0 ? -1 : from + reply.length();
        long free = Files.getFileStore(part.toAbsolutePath().getParent()).getUsableSpace();
        check(
                reply.length() <= free,
                "%s: %s needs %,d MB more, but the disk of %s has %,d MB; free some space or set HF_HOME elsewhere",
                id,
                name,
                reply.length() >> 20,
                options.cache(),
                free >> 20);
        try (InputStream body = reply.body();
                FileChannel out = FileChannel.open(part, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
            out.truncate(from).position(from);
            byte[] chunk = new byte[CHUNK];
            long done = from;
            progress.advanced(name, done, total);
            for (int read = body.read(chunk); read >= 0; read = body.read(chunk)) {
                ByteBuffer bytes = ByteBuffer.wrap(chunk, 0, read);
                while (bytes.hasRemaining()) {
                    out.write(bytes);
                }
                done += read;
                progress.advanced(name, done, total);
            }
            out.force(true);
            if (total >= 0 && done != total) {
                throw new Busy("%s ended after %d of %d bytes".formatted(name, done, total));
            }
        }
    }

    /**
     * What a server answered.
     *
     * @param start the first byte of the file that the body holds
     * @param length of the body, or -1
     * @param etag what the first host said of the whole file: SHA-256 (64 digits), git's SHA-1 (40), or something else
     */
    private record Reply(
            int status,
            InputStream body,
            long start,
            long length,
            @Nullable String etag) {}

    /** Gets an address from a byte on, following redirects; the token goes to the endpoint's host only. */
    private Reply get(URI address, long from, ModelId id) throws IOException, InterruptedException {
        String etag = null;
        for (int hop = 0; hop <= REDIRECTS; hop++) {
            HttpRequest.Builder request =
                    HttpRequest.newBuilder(address).timeout(stall).header("User-Agent", "espalier");
            if (from > 0) {
                request.header("Range", "bytes=" + from + "-");
            }
            if (options.token() != null && isEndpoint(address)) {
                request.header("Authorization", "Bearer " + options.token());
            }
            HttpResponse<InputStream> response = http.send(request.build(), HttpResponse.BodyHandlers.ofInputStream());
            int status = response.statusCode();
            // The hub names the checksum before it redirects to wherever the bytes are.
            String linked = response.headers().firstValue("X-Linked-Etag").orElse(null);
            String plain = response.headers().firstValue("ETag").orElse(null);
            etag = linked != null ? linked : etag != null ? etag : isEndpoint(address) ? plain : null;
            String location = response.headers().firstValue("Location").orElse(null);
            if (status / 100 == 3 && location != null) {
                response.body().close();
                URI next = address.resolve(location);
                check(
                        !"https".equals(address.getScheme()) || "https".equals(next.getScheme()),
                        "%s: %s redirects to an address without encryption (%s); it is not followed",
                        id,
                        options.endpoint(),
                        next.getHost());
                address = next;
                continue;
            }
            if (status == 200 || status == 206 || (status == 416 && from > 0)) {
                long start = status == 206 ? from : 0;
                if (status == 206) {
                    String range =
                            response.headers().firstValue("Content-Range").orElse("");
                    if (!range.startsWith("bytes " + from + "-")) {
                        response.body().close();
                        throw new Busy("the server sent the range \"%s\" instead of %d-".formatted(range, from));
                    }
                }
                long length =
                        response.headers().firstValueAsLong("Content-Length").orElse(-1);
                return new Reply(status, new Watch(response.body(), stall), start, length, clean(etag));
            }
            response.body().close();
            String code = response.headers().firstValue("X-Error-Code").orElse("");
            throw refusal(status, code, id);
        }
        throw new EspalierException("%s: %s redirects more than %d times; is HF_ENDPOINT right?"
                .formatted(id, options.endpoint(), REDIRECTS));
    }

    private boolean isEndpoint(URI address) {
        return options.endpoint().getHost().equalsIgnoreCase(address.getHost())
                && options.endpoint().getPort() == address.getPort()
                && options.endpoint().getScheme().equals(address.getScheme());
    }

    private IOException refusal(int status, String code, ModelId id) throws Busy {
        if (status >= 500 || status == 429 || status == 408) {
            return new Busy("the server answered " + status);
        }
        String hub = options.endpoint().toString();
        String sentence = switch (status) {
            case 401 ->
                options.token() == null
                        ? "%s answered 401: there is no such model, or it is private; check the name or set HF_TOKEN"
                        : "%s answered 401: there is no such model, or HF_TOKEN may not read it; check both";
            case 403 ->
                "%s answered 403: access is restricted; accept the model's terms there with the account "
                        + "of your HF_TOKEN";
            case 404 ->
                code.equals("RevisionNotFound")
                        ? "%s has the model, but not this revision; check what follows the @"
                        : "%s has no such model or file, and no file or folder here is called so; check the name";
            default -> "%s answered " + status + "; check HF_ENDPOINT and the name";
        };
        throw new EspalierException(id + ": " + sentence.formatted(hub));
    }

    private <T> T retrying(ModelId id, @Nullable Path part, Attempt<T> attempt) {
        Duration pause = firstPause;
        for (int failures = 0; ; ) {
            long before = size(part);
            try {
                return attempt.run();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                throw new EspalierException(
                        "%s: the download was interrupted; the next run goes on from there".formatted(id), e);
            } catch (IOException e) {
                if (size(part) > before) { // it got on, so the connection is worth its attempts anew
                    failures = 0;
                    pause = firstPause;
                }
                String reason = e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage();
                if (++failures >= ATTEMPTS) {
                    throw new Unreachable(
                            "%s: %s failed %d times (%s); try again later, the download goes on where it stopped"
                                    .formatted(id, options.endpoint(), ATTEMPTS, reason),
                            e);
                }
                LOG.warn("{}: {}; trying again in {} ms", id, reason, pause.toMillis());
                sleep(pause, id);
                pause = pause.multipliedBy(2);
            }
        }
    }

    /** The hub cannot be reached, or not just now. */
    static final class Unreachable extends EspalierException {
        private static final long serialVersionUID = 1L;

        Unreachable(String sentence, Throwable cause) {
            super(sentence, cause);
        }
    }

    private static long size(@Nullable Path part) {
        try {
            return part != null && Files.exists(part) ? Files.size(part) : 0;
        } catch (IOException e) {
            return 0;
        }
    }

    private static void sleep(Duration pause, ModelId id) {
        try {
            Thread.sleep(pause.toMillis());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new EspalierException(
                    "%s: the download was interrupted; the next run goes on from there".formatted(id), e);
        }
    }

    private static @Nullable String clean(@Nullable String etag) {
        return etag == null
                ? null
                : etag.replaceFirst("^W/", "").replace("\"", "").toLowerCase(Locale.ROOT);
    }

    /** Whether a file has the checksum an ETag states; one that states none is taken at its length. */
    private static boolean isExpected(Path file, @Nullable String etag) throws IOException {
        boolean sha256 = etag != null && etag.matches("[0-9a-f]{64}");
        boolean gitSha1 = etag != null && etag.matches("[0-9a-f]{40}");
        if (!sha256 && !gitSha1) {
            return true;
        }
        try {
            MessageDigest digest = MessageDigest.getInstance(sha256 ? "SHA-256" : "SHA-1");
            if (gitSha1) { // git hashes a blob behind this header
                digest.update(("blob " + Files.size(file) + "\0").getBytes(StandardCharsets.US_ASCII));
            }
            byte[] chunk = new byte[CHUNK];
            try (InputStream in = Files.newInputStream(file)) {
                for (int read = in.read(chunk); read >= 0; read = in.read(chunk)) {
                    digest.update(chunk, 0, read);
                }
            }
            return HexFormat.of().formatHex(digest.digest()).equals(etag);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every JDK has SHA-1 and SHA-256", e);
        }
    }
}
