// Command echo-go-http answers what it got: the body as it came, or the head of a request that has none.
package main

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"strconv"
)

// largest is the most that is echoed; what is larger is refused.
const largest = 32 << 20

func main() {
	if err := serve(listenAddress(), newHandler(instanceName())); err != nil {
		log.Fatal(err)
	}
}

// newHandler makes one instance.
func newHandler(instance string) http.Handler {
	echo := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Instance", instance)
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largest))
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			http.Error(w, tooLarge.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			return // the client is gone
		}
		contentType := r.Header.Get("Content-Type")
		if len(body) == 0 {
			if body, err = httputil.DumpRequest(r, false); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			contentType = ""
		}
		if contentType == "" {
			contentType = "text/plain; charset=utf-8"
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	}
	return routes(echo, http.MethodGet, http.MethodPost)
}
