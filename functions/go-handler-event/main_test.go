package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

func TestTheNumberGrowsByOne(t *testing.T) {
	for _, mode := range []string{"binary", "structured"} {
		for data, want := range map[string]string{
			"1": "2", " -1\n": "0", `{"number": 41}`: `{"number":42}`, `{"a":[1],"number":9007199254740993}`: `{"a":[1],"number":9007199254740994}`,
		} {
			recorder := answer(request(t, mode, data))
			got, err := cehttp.NewEventFromHTTPResponse(recorder.Result())
			if err != nil || recorder.Code != http.StatusOK {
				t.Fatalf("%s %s: %d, %v", mode, data, recorder.Code, err)
			}
			if err := got.Validate(); err != nil {
				t.Errorf("%s %s: %v", mode, data, err)
			}
			if string(got.Data()) != want {
				t.Errorf("%s %s: %s", mode, data, got.Data())
			}
			if got.ID() != "7" || got.Type() != answerType || got.Source() != answerSource || got.Extensions()["step"] != "a" {
				t.Errorf("%s %s: %v", mode, data, got)
			}
			if name := recorder.Header().Get("x-instance"); name != "pod-1" {
				t.Errorf("x-instance: %q", name)
			}
		}
	}
}

func TestBadDataIsRefusedWithTheReason(t *testing.T) {
	for data, reason := range map[string]string{
		"":                    "no data",
		"one":                 `"one" is not a whole number`,
		"1.5":                 `"1.5" is not a whole number`,
		"[1]":                 "not a whole number",
		"{":                   "data is not JSON",
		`{"n":1}`:             `no "number"`,
		`{"number":null}`:     "not a whole number",
		`{"number":"1"}`:      "not a whole number",
		"9223372036854775807": "no next",
		"9223372036854775808": "64 bits",
	} {
		refused(t, request(t, "binary", data), http.StatusBadRequest, reason)
	}
}

func TestBadEventsAreRefusedWithTheReason(t *testing.T) {
	plain := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("1"))
	refused(t, plain, http.StatusBadRequest, "neither ce-specversion nor")

	structured := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"specversion":"1.0"`))
	structured.Header.Set("Content-Type", "application/cloudevents+json")
	refused(t, structured, http.StatusBadRequest, "not a CloudEvent")

	incomplete := request(t, "binary", "1")
	incomplete.Header.Del("ce-type")
	refused(t, incomplete, http.StatusBadRequest, "type: MUST be a non-empty string")

	batch := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("[]"))
	batch.Header.Set("Content-Type", "application/cloudevents-batch+json")
	refused(t, batch, http.StatusBadRequest, "one by one")

	refused(t, request(t, "binary", strings.Repeat("1", largest+1)), http.StatusRequestEntityTooLarge, "too large")
	refused(t, httptest.NewRequest(http.MethodPost, "/nothing", nil), http.StatusNotFound, "not found")
}

func request(t *testing.T, mode, data string) *http.Request {
	t.Helper()
	if mode == "binary" {
		made := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(data))
		for name, value := range map[string]string{
			"specversion": "1.0", "id": "7", "type": "benchmark.request", "source": "/test", "step": "a",
		} {
			made.Header.Set("ce-"+name, value)
		}
		made.Header.Set("Content-Type", "application/json")
		return made
	}
	asked := event.New()
	asked.SetID("7")
	asked.SetType("benchmark.request")
	asked.SetSource("/test")
	asked.SetExtension("step", "a")
	if err := asked.SetData(event.ApplicationJSON, json.RawMessage(data)); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	made := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
	made.Header.Set("Content-Type", event.ApplicationCloudEventsJSON)
	return made
}

func answer(request *http.Request) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	newHandler("pod-1").ServeHTTP(recorder, request)
	return recorder
}

func refused(t *testing.T, request *http.Request, status int, reason string) {
	t.Helper()
	recorder := answer(request)
	if recorder.Code != status || !strings.Contains(recorder.Body.String(), reason) {
		t.Errorf("%d %s; not %d with %q", recorder.Code, recorder.Body, status, reason)
	}
}
