// Package testdata holds real webhook payloads, for tests and benchmarks.
package testdata

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"
)

// The payloads are those of the npm package @octokit/webhooks-examples 7.6.1, see LICENSE.octokit.
//
//go:embed github-webhooks.jsonl
var lines []byte

// Payload is one webhook that GitHub sent.
type Payload struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// Payloads returns all 329, always in the same order. Callers must not change them.
var Payloads = sync.OnceValue(func() []Payload {
	var payloads []Payload
	for line := range bytes.Lines(lines) {
		var p Payload
		if err := json.Unmarshal(line, &p); err != nil {
			panic(fmt.Sprintf("testdata: payload %d: %v", len(payloads), err)) // the file is embedded: a broken build
		}
		payloads = append(payloads, p)
	}
	return payloads
})
