package bench;

import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

/** Whether this instance lives and is ready; asking never counts as its first request. */
@RestController
class Health {
    @GetMapping({"/health/liveness", "/health/readiness"})
    ResponseEntity<String> get() {
        return ResponseEntity.ok().contentType(MediaType.TEXT_PLAIN).body("ok");
    }
}
