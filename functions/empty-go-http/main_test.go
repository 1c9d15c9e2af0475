package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOnlyOneOfFiftyConcurrentRequestsIsTheFirst(t *testing.T) {
	server := httptest.NewServer(newHandler("pod-1"))
	defer server.Close()
	answers := make(chan string, 50)
	for range cap(answers) {
		go func() { answers <- fetch(t, http.MethodGet, server.URL, nil, http.StatusOK) }()
	}
	counts := map[string]int{}
	for range cap(answers) {
		counts[<-answers]++
	}
	if counts["true"] != 1 || counts["false"] != 49 {
		t.Errorf("answers: %v", counts)
	}
}

func TestWhatCountsAsARequest(t *testing.T) {
	server := httptest.NewServer(newHandler("pod-1"))
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
	newHandler("pod-1").ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := recorder.Header().Get("x-instance"); got != "pod-1" {
		t.Errorf("x-instance: %q", got)
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
