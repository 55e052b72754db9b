package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/oklog/ulid/v2"
)

// bodyBytes is the size of every message.
const bodyBytes = 500

// numberKey stands before the number of an event in its body, of numberDigits digits.
const (
	numberKey    = `"number":`
	numberBase   = 1_000_000_000
	numberDigits = 10
)

// event returns event i of a measurement, whose message has bodyBytes.
func event(i int) diverted.Event {
	e := diverted.Event{
		Locator:        ulid.Make(),
		RequestLocator: ulid.Make(),
		Timestamp:      time.Now(),
		Type:           "invoice.paid",
	}
	e.Data = fmt.Appendf(nil, `{%s%d,"currency":"EUR","customer":"Northwind Traders","lines":[`+
		`{"article":"Chai","quantity":12,"price":"18.00"},{"article":"Aniseed Syrup","quantity":3,"price":"10.00"}],"note":"%s"}`,
		numberKey, numberBase+i, notePadding)
	return e
}

func events(n int) []diverted.Event {
	all := make([]diverted.Event, n)
	for i := range all {
		all[i] = event(i)
	}
	return all
}

// bodies returns the messages of n events.
func bodies(n int) ([][]byte, error) {
	all := make([][]byte, n)
	for i := range all {
		body, err := event(i).Encode()
		if err != nil {
			return nil, err
		}
		all[i] = body
	}
	return all, nil
}

var notePadding string

func init() {
	body, err := event(0).Encode()
	if err != nil || len(body) > bodyBytes {
		panic(fmt.Sprintf("bench: an event of %d bytes: %v", len(body), err))
	}
	notePadding = strings.Repeat("thank you ", bodyBytes/10)[:bodyBytes-len(body)]
}

// number returns the number of the event whose message this is, -1 if it has none.
func number(body []byte) int {
	_, after, ok := strings.Cut(string(body), numberKey)
	if !ok || len(after) < numberDigits {
		return -1
	}
	n, err := strconv.Atoi(after[:numberDigits])
	if err != nil {
		return -1
	}
	return n - numberBase
}
