package bench;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.concurrent.atomic.AtomicBoolean;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RestController;

/** Answers {@code true} to an instance's first request and {@code false} to every later one. */
@RestController
class Function {
    private static final String INSTANCE = instance();

    private final AtomicBoolean first = new AtomicBoolean(true);

    @GetMapping("/")
    ResponseEntity<String> get() {
        return answer();
    }

    @PostMapping("/")
    ResponseEntity<String> post(InputStream body) throws IOException {
        body.transferTo(OutputStream.nullOutputStream());
        return answer();
    }

    private ResponseEntity<String> answer() {
        return ResponseEntity.ok()
                .contentType(MediaType.TEXT_PLAIN)
                .header("x-instance", INSTANCE)
                .body(Boolean.toString(first.getAndSet(false)));
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
