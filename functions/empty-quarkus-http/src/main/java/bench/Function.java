package bench;

import io.smallrye.common.annotation.NonBlocking;
import jakarta.ws.rs.GET;
import jakarta.ws.rs.POST;
import jakarta.ws.rs.Path;
import jakarta.ws.rs.Produces;
import jakarta.ws.rs.core.MediaType;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.concurrent.atomic.AtomicBoolean;
import org.jboss.resteasy.reactive.RestResponse;

/** Answers {@code true} to an instance's first request and {@code false} to every later one. */
@Path("/")
@NonBlocking
@Produces(MediaType.WILDCARD) // whatever the caller accepts
public class Function {
    private static final String INSTANCE = instance();

    private final AtomicBoolean first = new AtomicBoolean(true);

    @GET
    public RestResponse<String> get() {
        return answer();
    }

    @POST
    public RestResponse<String> post(byte[] body) {
        return answer();
    }

    private RestResponse<String> answer() {
        return RestResponse.ResponseBuilder.ok(Boolean.toString(first.getAndSet(false)), MediaType.TEXT_PLAIN_TYPE)
                .header("x-instance", INSTANCE)
                .build();
    }

    private static String instance() {
        String given = System.getenv("HOSTNAME");
        try {
            return given != null && !given.isEmpty() ? given : InetAddress.getLocalHost().getHostName();
        } catch (UnknownHostException error) {
            return "unknown";
        }
    }
}
