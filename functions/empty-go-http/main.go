// Command empty-go-http answers "true" to an instance's first request and "false" to every later one.
package main

import (
	"io"
	"log"
	"net/http"
	"sync/atomic"
)

func main() {
	if err := serve(listenAddress(), newHandler(instanceName())); err != nil {
		log.Fatal(err)
	}
}

// newHandler makes one instance: its routes, and whether its first request is still to come.
func newHandler(instance string) http.Handler {
	var served atomic.Bool
	answer := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client is gone
		}
		text := "true"
		if served.Swap(true) {
			text = "false"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Instance", instance)
		_, _ = io.WriteString(w, text)
	}
	return routes(answer, http.MethodGet, http.MethodPost)
}
