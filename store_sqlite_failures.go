package diverted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// The failures of a delivery are in two columns: failure has the last, and failures those before it. So the
// first failure costs nothing more, and a release that knows of failure alone keeps both right.

// appendFailure is for a statement that sets a new failure: what failures becomes, with the failure that was
// the last until then, and without the first if there are too many.
var appendFailure = fmt.Sprintf(`CASE
	WHEN diverted_deliveries.failure IS NULL THEN failures
	WHEN failures IS NULL THEN diverted_deliveries.failure
	WHEN length(failures) - length(replace(failures, char(10), '')) < %d THEN failures || char(10) || diverted_deliveries.failure
	ELSE substr(failures, instr(failures, char(10)) + 1) || char(10) || diverted_deliveries.failure END`, MaxFailures-2)

// keep returns a failure as it is kept, nil for none.
func (tx *sqliteTx) keep(f *Failure) *Failure {
	if f == nil {
		return nil
	}
	kept := f.Kept(tx.now)
	return &kept
}

// encodeFailure returns the JSON of a failure for its column, NULL for none.
func encodeFailure(f *Failure) any {
	if f == nil {
		return nil
	}
	encoded, err := json.Marshal(f)
	if err != nil {
		return nil // a struct of strings, a number and a time in this century: it cannot fail
	}
	return string(encoded)
}

// decodeFailure reads a failure from its column, nil from NULL.
func decodeFailure(encoded []byte) (*Failure, error) {
	if encoded == nil {
		return nil, nil
	}
	var f Failure
	if err := json.Unmarshal(encoded, &f); err != nil {
		return nil, fmt.Errorf("%w: a failure cannot be decoded", ErrDamaged)
	}
	return &f, nil
}

// decodeFailures reads all failures of a delivery, given the last.
func decodeFailures(before []byte, last *Failure) ([]Failure, error) {
	var all []Failure
	for line := range bytes.Lines(before) {
		f, err := decodeFailure(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return nil, err
		}
		all = append(all, *f)
	}
	if last != nil {
		all = append(all, *last)
	}
	return all, nil
}

// expungeFailures returns what is kept of the failures of an event that is expunged, oldest first. One that
// cannot be decoded is replaced: whatever it says has to go.
func (tx *sqliteTx) expungeFailures(before, last []byte) []Failure {
	var all []Failure
	for _, line := range append(slices.Collect(bytes.Lines(before)), last) {
		f, err := decodeFailure(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil || f == nil || f.Trigger == "" {
			f = tx.keep(&Failure{Trigger: TriggerTimeout, Message: "this failure could not be read when its event was expunged"})
		}
		all = append(all, f.Expunged())
	}
	return all
}

// encodeFailures returns failures for the columns failures and failure.
func encodeFailures(all []Failure) (before, last any) {
	var lines []string
	for _, f := range all {
		line, err := json.Marshal(f)
		if err != nil {
			continue // as in encodeFailure
		}
		lines = append(lines, string(line))
	}
	if n := len(lines); n > 0 {
		last = lines[n-1]
		if n > 1 {
			before = strings.Join(lines[:n-1], "\n")
		}
	}
	return before, last
}
