package bench;

import io.smallrye.common.annotation.NonBlocking;
import jakarta.ws.rs.GET;
import jakarta.ws.rs.Path;
import jakarta.ws.rs.Produces;
import jakarta.ws.rs.core.MediaType;
import org.jboss.resteasy.reactive.RestResponse;

/** Whether this instance lives and is ready; asking never counts as its first request. */
@Path("/health/{probe:liveness|readiness}")
@NonBlocking
@Produces(MediaType.WILDCARD) // whatever the caller accepts
public class Health {
    @GET
    public RestResponse<String> get() {
        return RestResponse.ResponseBuilder.ok("ok", MediaType.TEXT_PLAIN_TYPE).build();
    }
}
