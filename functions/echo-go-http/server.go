// The part that every Go function here has: the same file in each folder, since each is an image of its own.
package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	// grace is how long requests in flight at SIGTERM get.
	grace = 10 * time.Second
	// keepAlive is longer than callers keep idle connections: it is they who close them.
	keepAlive = 2 * time.Minute
)

// routes sends requests for / with these methods to answer (GET includes HEAD), and answers health checks itself.
func routes(answer http.HandlerFunc, methods ...string) http.Handler {
	mux := http.NewServeMux()
	for _, method := range methods {
		mux.HandleFunc(method+" /{$}", answer)
	}
	health := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }
	mux.HandleFunc("GET /health/liveness", health)
	mux.HandleFunc("GET /health/readiness", health)
	return mux
}

// serve runs until SIGTERM or SIGINT; requests in flight are answered first.
func serve(address string, handler http.Handler) error {
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: time.Minute, IdleTimeout: keepAlive}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-stopping.Done():
	}
	within, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := server.Shutdown(within); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// listenAddress is $BIND (every interface) and $PORT (8080).
func listenAddress() string {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	return net.JoinHostPort(os.Getenv("BIND"), port)
}

// instanceName is the pod's name in a cluster, and the host's elsewhere.
func instanceName() string {
	if name := os.Getenv("HOSTNAME"); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return name
}
