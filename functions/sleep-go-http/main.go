// Command sleep-go-http waits $SLEEP_MS (1000), then answers "true" to an instance's first request and "false" to
// every later one.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

func main() {
	pause, err := readPause(os.Getenv("SLEEP_MS"))
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(listenAddress(), newHandler(instanceName(), pause)); err != nil {
		log.Fatal(err)
	}
}

// newHandler makes one instance: its routes, and whether its first request is still to come.
func newHandler(instance string, pause time.Duration) http.Handler {
	var served atomic.Bool
	answer := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client is gone
		}
		text := "true"
		if served.Swap(true) {
			text = "false"
		}
		time.Sleep(pause)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Instance", instance)
		_, _ = io.WriteString(w, text)
	}
	return routes(answer, http.MethodGet, http.MethodPost)
}

// readPause is the time that text in milliseconds means; none is a second.
func readPause(text string) (time.Duration, error) {
	if text == "" {
		return time.Second, nil
	}
	ms, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("SLEEP_MS=%s: not a whole number of milliseconds", text)
	}
	return time.Duration(ms) * time.Millisecond, nil
}
