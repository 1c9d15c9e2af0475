package bench;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.quarkus.test.common.http.TestHTTPResource;
import io.quarkus.test.junit.QuarkusTest;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** One instance serves all of this class, so that its life is one test. */
@QuarkusTest
class FunctionTest {
    @TestHTTPResource("/")
    URI url;

    private final HttpClient client =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    @Test
    void onlyOneOfFiftyConcurrentRequestsIsTheFirst() {
        for (String probe : List.of("health/liveness", "health/readiness")) {
            assertEquals(200, send(request(probe).GET()).join().statusCode());
        }
        assertEquals(404, send(request("nothing").GET()).join().statusCode());

        List<CompletableFuture<HttpResponse<String>>> pending =
                Stream.generate(() -> send(request("").GET())).limit(50).toList();
        List<String> answers = pending.stream().map(each -> each.join().body()).toList();
        assertEquals(1, answers.stream().filter("true"::equals).count());
        assertEquals(49, answers.stream().filter("false"::equals).count());

        HttpResponse<String> posted =
                send(request("").POST(BodyPublishers.ofByteArray(new byte[1 << 20]))).join();
        assertEquals(200, posted.statusCode());
        assertEquals("false", posted.body());
        assertEquals("text/plain", posted.headers().firstValue("content-type").orElse("").split(";")[0]);
        assertEquals(1, posted.headers().allValues("x-instance").size());
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(url.resolve(path));
    }

    private CompletableFuture<HttpResponse<String>> send(HttpRequest.Builder request) {
        return client.sendAsync(request.build(), BodyHandlers.ofString());
    }
}
