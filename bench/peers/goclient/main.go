// A Go load generator with net/http and httptrace, for comparison; it logs the same fields as ours.
//
//	goclient -url URL -seconds 5 -connections 100 -log FILE             closed loop
//	goclient -url URL -seconds 5 -rate 5000 -connections 100 -log FILE  open loop, sleeping to absolute deadlines
//
// Prints a JSON object: requests, ok, and quantiles of lag and TTFB in microseconds.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"
)

type result struct {
	seq                            int
	start                          time.Time
	status                         int
	ttfb, total, dns, connect, tls time.Duration
	lag                            time.Duration
	cold, instance, failure        string
	reused                         bool
	bytes                          int
}

func request(client *http.Client, url string, seq int, due time.Time) result {
	r := result{seq: seq, start: time.Now()}
	r.lag = r.start.Sub(due)
	var dns, connect, handshake time.Time
	trace := &httptrace.ClientTrace{
		DNSStart:             func(httptrace.DNSStartInfo) { dns = time.Now() },
		DNSDone:              func(httptrace.DNSDoneInfo) { r.dns = time.Since(dns) },
		ConnectStart:         func(string, string) { connect = time.Now() },
		ConnectDone:          func(string, string, error) { r.connect = time.Since(connect) },
		TLSHandshakeStart:    func() { handshake = time.Now() },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { r.tls = time.Since(handshake) },
		GotConn:              func(info httptrace.GotConnInfo) { r.reused = info.Reused },
		GotFirstResponseByte: func() { r.ttfb = time.Since(r.start) },
	}
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		panic(err)
	}
	response, err := client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if err != nil {
		r.failure = err.Error()
		r.total = time.Since(r.start)
		return r
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	r.total = time.Since(r.start)
	if err != nil {
		r.failure = err.Error()
	}
	r.status, r.bytes, r.instance = response.StatusCode, len(body), response.Header.Get("x-instance")
	r.cold = strings.TrimSpace(string(body))
	return r
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func writeLog(path string, url string, results <-chan result, done chan<- []result) {
	file, err := os.Create(path)
	if err != nil {
		panic(err)
	}
	out := bufio.NewWriterSize(file, 1<<16)
	flush := time.NewTicker(time.Second)
	var kept []result
	for {
		select {
		case <-flush.C:
			out.Flush()
		case r, more := <-results:
			if !more {
				out.Flush()
				file.Close()
				done <- kept
				return
			}
			fmt.Fprintf(out, `{"event":"request","seq":%d,"phase":"measure","time":%q,"target":%q,"status":%d,"ttfb":%.3f,"total":%.3f,"dns":%.3f,"connect":%.3f,"tls":%.3f,"lag":%.3f,"cold":%t,"reused":%t,"retries":0,"bytes":%d,"stamp":"user","instance":%q,"message":%q}`+"\n",
				r.seq, r.start.UTC().Format(time.RFC3339Nano), url, r.status, ms(r.ttfb), ms(r.total), ms(r.dns), ms(r.connect), ms(r.tls), ms(r.lag), r.cold == "true", r.reused, r.bytes, r.instance, r.failure)
			kept = append(kept, r)
		}
	}
}

func quantiles(values []time.Duration) map[string]float64 {
	sort.Slice(values, func(i, j int) bool { return values[i] < values[j] })
	found := map[string]float64{}
	for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99, "p99.9": 0.999} {
		if len(values) > 0 {
			found[name] = float64(values[int(q*float64(len(values)-1))].Nanoseconds()) / 1e3
		}
	}
	return found
}

func main() {
	url := flag.String("url", "", "target")
	seconds := flag.Float64("seconds", 5, "length")
	rate := flag.Float64("rate", 0, "requests a second; 0 is the closed loop")
	connections := flag.Int("connections", 100, "at most")
	log := flag.String("log", os.DevNull, "request log")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConns: *connections, MaxIdleConnsPerHost: *connections, IdleConnTimeout: 90 * time.Second},
		Timeout:   30 * time.Second,
	}
	results := make(chan result, 4096)
	done := make(chan []result)
	go writeLog(*log, *url, results, done)
	start := time.Now()
	length := time.Duration(*seconds * float64(time.Second))
	var running sync.WaitGroup
	if *rate == 0 {
		for worker := 0; worker < *connections; worker++ {
			running.Add(1)
			go func(worker int) {
				defer running.Done()
				for seq := worker; time.Since(start) < length; seq += *connections {
					results <- request(client, *url, seq, time.Now())
				}
			}(worker)
		}
	} else {
		for seq := 0; float64(seq) < *rate**seconds; seq++ {
			due := start.Add(time.Duration(float64(seq) / *rate * float64(time.Second)))
			time.Sleep(time.Until(due))
			running.Add(1)
			go func(seq int, due time.Time) {
				defer running.Done()
				results <- request(client, *url, seq, due)
			}(seq, due)
		}
	}
	running.Wait()
	elapsed := time.Since(start)
	close(results)
	var ok int
	var lag, ttfb []time.Duration
	kept := <-done
	for _, r := range kept {
		if r.status == 200 && r.failure == "" {
			ok++
			ttfb = append(ttfb, r.ttfb)
		}
		lag = append(lag, r.lag)
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"requests": len(kept), "ok": ok, "seconds": elapsed.Seconds(), "lag_us": quantiles(lag), "ttfb_us": quantiles(ttfb),
	})
}
