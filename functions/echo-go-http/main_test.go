package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTheBodyComesBackAsItIs(t *testing.T) {
	body := bytes.Repeat([]byte{0, 1, 2, 255}, 1<<18)
	request := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/x-anything")
	recorder := answer(request)
	if recorder.Code != http.StatusOK || !bytes.Equal(recorder.Body.Bytes(), body) {
		t.Errorf("%d with %d bytes", recorder.Code, recorder.Body.Len())
	}
	if got := recorder.Header().Get("content-type"); got != "application/x-anything" {
		t.Errorf("content-type: %q", got)
	}
	if got := recorder.Header().Get("x-instance"); got != "pod-1" {
		t.Errorf("x-instance: %q", got)
	}
}

func TestARequestWithoutABodyShowsItsHead(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/?a=b", nil)
	request.Header.Set("X-Color", "blue")
	text := answer(request).Body.String()
	if !strings.HasPrefix(text, "GET /?a=b HTTP/1.1\r\n") || !strings.Contains(text, "X-Color: blue\r\n") {
		t.Errorf("answer: %q", text)
	}
}

func TestStatuses(t *testing.T) {
	for _, each := range []struct {
		method, path string
		size, status int
	}{
		{http.MethodGet, "/health/liveness", 0, http.StatusOK},
		{http.MethodGet, "/health/readiness", 0, http.StatusOK},
		{http.MethodGet, "/nothing", 0, http.StatusNotFound},
		{http.MethodPost, "/", largest, http.StatusOK},
		{http.MethodPost, "/", largest + 1, http.StatusRequestEntityTooLarge},
	} {
		recorder := answer(httptest.NewRequest(each.method, each.path, bytes.NewReader(make([]byte, each.size))))
		if recorder.Code != each.status {
			t.Errorf("%s %s with %d bytes: %d", each.method, each.path, each.size, recorder.Code)
		}
	}
}

func answer(request *http.Request) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	newHandler("pod-1").ServeHTTP(recorder, request)
	return recorder
}
