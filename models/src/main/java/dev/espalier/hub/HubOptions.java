package dev.espalier.hub;

import static dev.espalier.Check.check;

import java.net.URI;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Where models are fetched from and kept.
 *
 * @param endpoint the hub; http or https
 * @param token sent to the endpoint, and to no other host, or null
 * @param cache folder of the cache, in the layout of Python's huggingface_hub, so that both share what either fetched
 * @param offline never touch the network
 */
public record HubOptions(URI endpoint, @Nullable String token, Path cache, boolean offline) {

    public HubOptions {
        String scheme = String.valueOf(endpoint.getScheme());
        check(
                (scheme.equals("https") || scheme.equals("http")) && endpoint.getHost() != null,
                "HF_ENDPOINT must be an http or https address, found \"%s\"; unset it for https://huggingface.co",
                endpoint);
        String text = endpoint.toString();
        endpoint = text.endsWith("/") ? URI.create(text.substring(0, text.length() - 1)) : endpoint;
    }

    /** From HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE. */
    public static HubOptions fromEnvironment() {
        return fromEnvironment(System.getenv());
    }

    static HubOptions fromEnvironment(Map<String, String> environment) {
        String home = environment.getOrDefault("HF_HOME", "");
        String token = environment.getOrDefault("HF_TOKEN", "").strip();
        String endpoint = environment.getOrDefault("HF_ENDPOINT", "").strip();
        String offline = environment.getOrDefault("HF_HUB_OFFLINE", "").toLowerCase(Locale.ROOT);
        URI address;
        try {
            address = URI.create(endpoint.isEmpty() ? "https://huggingface.co" : endpoint);
        } catch (IllegalArgumentException e) {
            address =
                    URI.create("invalid:" + endpoint.replaceAll("[^A-Za-z0-9.:/-]", "_")); // refused by the constructor
        }
        return new HubOptions(
                address,
                token.isEmpty() ? null : token,
                home.isEmpty()
                        ? Path.of(System.getProperty("user.home"), ".cache", "espalier", "hub")
                        : Path.of(home, "hub"),
                Set.of("1", "true", "yes", "on").contains(offline));
    }

    /** Without the token, which must not reach a log. */
    @Override
    public String toString() {
        return "%s, cache %s%s%s"
                .formatted(endpoint, cache, token == null ? "" : ", with a token", offline ? ", offline" : "");
    }
}
