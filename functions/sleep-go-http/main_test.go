package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

const pause = 50 * time.Millisecond

func TestOnlyOneOfFiftyConcurrentRequestsIsTheFirst(t *testing.T) {
	server := httptest.NewServer(newHandler("pod-1", pause))
	defer server.Close()
	answers := make(chan string, 50)
	for range cap(answers) {
		go func() { answers <- fetch(t, http.MethodGet, server.URL, nil, http.StatusOK) }()
	}
	start := time.Now()
	counts := map[string]int{}
	for range cap(answers) {
		counts[<-answers]++
	}
	if took := time.Since(start); took < pause || took > 40*pause {
		t.Errorf("fifty at once took %v, each %v", took, pause)
	}
	if counts["true"] != 1 || counts["false"] != 49 {
		t.Errorf("answers: %v", counts)
	}
}

func TestWhatCountsAsARequest(t *testing.T) {
	server := httptest.NewServer(newHandler("pod-1", pause))
	defer server.Close()
	for _, each := range []struct {
		method, path string
		status       int
		body         string
	}{
		{http.MethodGet, "/health/liveness", http.StatusOK, "ok"},
		{http.MethodGet, "/health/readiness", http.StatusOK, "ok"},
		{http.MethodGet, "/nothing", http.StatusNotFound, "404 page not found\n"},
		{http.MethodPost, "/", http.StatusOK, "true"},
		{http.MethodGet, "/", http.StatusOK, "false"},
		{http.MethodHead, "/", http.StatusOK, ""},
	} {
		body := bytes.NewReader(make([]byte, 1<<20))
		if got := fetch(t, each.method, server.URL+each.path, body, each.status); got != each.body {
			t.Errorf("%s %s: %q", each.method, each.path, got)
		}
	}
}

func TestTheInstanceIsNamed(t *testing.T) {
	recorder := httptest.NewRecorder()
	newHandler("pod-1", pause).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := recorder.Header().Get("x-instance"); got != "pod-1" {
		t.Errorf("x-instance: %q", got)
	}
}

func TestReadPause(t *testing.T) {
	for text, want := range map[string]time.Duration{"": time.Second, "0": 0, "250": 250 * time.Millisecond} {
		if got, err := readPause(text); got != want || err != nil {
			t.Errorf("SLEEP_MS=%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "1s", "99999999999"} {
		if _, err := readPause(text); err == nil {
			t.Errorf("SLEEP_MS=%s is taken", text)
		}
	}
}

func fetch(t *testing.T, method, url string, body io.Reader, status int) string {
	t.Helper()
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Error(err)
		return ""
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		t.Errorf("%s %s: %d, %v", method, url, response.StatusCode, err)
	}
	return string(text)
}
