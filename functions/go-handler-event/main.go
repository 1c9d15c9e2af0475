// Command go-handler-event answers a CloudEvent with one whose number is greater by one.
//
// The data is JSON: a whole number, or an object with one under "number". The answer is an event in binary mode with the
// id of the question, so that it can be followed through brokers and sequences, and a type and source of its own.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

const (
	answerType   = "benchmark.response"
	answerSource = "/go-handler-event"
	largest      = 32 << 20
)

func main() {
	if err := serve(listenAddress(), newHandler(instanceName())); err != nil {
		log.Fatal(err)
	}
}

// newHandler makes one instance.
func newHandler(instance string) http.Handler {
	handle := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Instance", instance)
		answer, err := handleEvent(w, r)
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			http.Error(w, tooLarge.Error(), http.StatusRequestEntityTooLarge)
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		} else if err := cehttp.WriteResponseWriter(r.Context(), binding.ToMessage(answer), http.StatusOK, w); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
	return routes(handle, http.MethodPost)
}

// handleEvent reads the request's event and makes the answer to it; the error says what is wrong with the event.
func handleEvent(w http.ResponseWriter, r *http.Request) (*event.Event, error) {
	r.Body = http.MaxBytesReader(w, r.Body, largest)
	if cehttp.IsHTTPBatch(r.Header) {
		return nil, errors.New("batches of CloudEvents are not taken: send them one by one")
	}
	question, err := cehttp.NewEventFromHTTPRequest(r)
	if errors.Is(err, binding.ErrUnknownEncoding) {
		return nil, errors.New("not a CloudEvent: neither ce-specversion nor Content-Type application/cloudevents+json")
	}
	if err != nil {
		return nil, fmt.Errorf("not a CloudEvent: %w", err)
	}
	if err := question.Validate(); err != nil {
		return nil, fmt.Errorf("not a valid CloudEvent: %w", err)
	}
	data, err := increment(question.Data())
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", question.ID(), err)
	}
	answer := question.Clone()
	answer.SetType(answerType)
	answer.SetSource(answerSource)
	answer.SetTime(time.Now())
	if err := answer.SetData(event.ApplicationJSON, json.RawMessage(data)); err != nil {
		return nil, err
	}
	return &answer, nil
}

// increment adds one to the number that data is, or that its object has.
func increment(data []byte) ([]byte, error) {
	if text := bytes.TrimSpace(data); len(text) == 0 || text[0] != '{' {
		number, err := successor(text)
		return []byte(number), err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, fmt.Errorf("data is not JSON: %w", err)
	}
	if object["number"] == nil {
		return nil, errors.New(`data has no "number"`)
	}
	number, err := successor(object["number"])
	if err != nil {
		return nil, err
	}
	object["number"] = json.RawMessage(number)
	return json.Marshal(object)
}

// successor is the decimal text of the next whole number.
func successor(text []byte) (string, error) {
	if len(text) == 0 {
		return "", errors.New("the event has no data")
	}
	number, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return "", fmt.Errorf("%.40q is not a whole number of 64 bits", text)
	}
	if number == math.MaxInt64 {
		return "", fmt.Errorf("%d is the largest number of 64 bits: it has no next", number)
	}
	return strconv.FormatInt(number+1, 10), nil
}
