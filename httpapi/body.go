package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/divertedevents/diverted/internal/requests"
)

// The greatest sizes of a request's body, in bytes.
const (
	maxBody      = 64 << 10
	maxEventBody = 256 << 10
)

// readBody returns the body of a request: one JSON value, of the right type and size.
func (c *call) readBody(limit int64) (json.RawMessage, error) {
	mediaType, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	charset, hasCharset := params["charset"]
	switch {
	case err != nil || mediaType != "application/json" || hasCharset && !strings.EqualFold(charset, "utf-8"):
		return nil, requests.Fault(errMediaType, "Content-Type", "must be application/json")
	case c.r.Header.Get("Content-Encoding") != "":
		return nil, requests.Fault(errMediaType, "Content-Encoding", "must be absent")
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, requests.Fault(errTooLarge, "body", "must be at most %d bytes", limit)
	case err != nil:
		return nil, requests.Fault(errMalformed, "body", "must come whole")
	case !utf8.Valid(body):
		return nil, requests.Fault(errMalformed, "body", "must be UTF-8")
	}
	var value json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(&value); err != nil {
		// The JSON package's message quotes the body; where it stopped is enough to find the place.
		at := int64(len(body))
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			at = syntax.Offset
		}
		return nil, requests.Fault(errMalformed, "body", "must be a JSON value, and is none at byte %d", at)
	}
	if rest := body[decoder.InputOffset():]; len(bytes.TrimLeft(rest, " \t\r\n")) > 0 {
		return nil, requests.Fault(errMalformed, "body", "must end with its JSON value, at byte %d", decoder.InputOffset())
	}
	return value, nil
}

// object reads the members of a JSON object. What is wrong goes to the faults that all objects of one body
// share, by path, so that a caller is told everything at once; a member that is absent or wrong reads as
// nil. null reads as absent where a member is optional, since many clients write what they leave out so, and
// answers show what there is not so. Of a required member it is a wrong type.
type object struct {
	faults   *faults
	path     string
	members  map[string]json.RawMessage
	names    []string // in their order, each once
	known    []string
	required map[string]bool
}

// readObject reads the members of raw, which is valid JSON. A raw that is nil or no object has none.
func readObject(f *faults, path string, raw json.RawMessage) *object {
	o := &object{faults: f, path: path, members: map[string]json.RawMessage{}, required: map[string]bool{}}
	if raw == nil {
		return o
	}
	if kind(raw) != "an object" {
		f.Add(cmp.Or(path, "body"), "must be an object, was %s", kind(raw))
		return o
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	_, _ = decoder.Token() // {
	for decoder.More() {
		token, err := decoder.Token()
		name, _ := token.(string)
		var value json.RawMessage
		if err != nil || decoder.Decode(&value) != nil {
			panic("httpapi: valid JSON cannot be read") // readBody has read it
		}
		if _, twice := o.members[name]; twice {
			f.Add(o.at(name), "must be given once")
			continue
		}
		o.members[name] = value
		o.names = append(o.names, name)
	}
	return o
}

// kind says what a JSON value is.
func kind(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// at is the path of a member.
func (o *object) at(name string) string {
	name = parameterName(name)
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// value returns a member that is of this kind. An empty want takes every kind.
func (o *object) value(name, want string) (json.RawMessage, bool) {
	o.known = append(o.known, name)
	raw, ok := o.members[name]
	if !ok || want == "" {
		return raw, ok
	}
	switch have := kind(raw); {
	case have == want:
		return raw, true
	case have != "null" || o.required[name]:
		o.faults.Add(o.at(name), "must be %s, was %s", want, have)
	}
	return nil, false
}

// need says that these members are required. It comes before they are read.
func (o *object) need(names ...string) {
	for _, name := range names {
		o.required[name] = true
		if _, ok := o.members[name]; !ok {
			o.faults.Add(o.at(name), "is required")
		}
	}
}

// end says that there are no members but those that were read.
func (o *object) end() {
	for _, name := range o.names {
		if !slices.Contains(o.known, name) {
			o.faults.Add(o.at(name), "is unknown; there are %s", strings.Join(o.known, ", "))
		}
	}
}

func (o *object) text(name string) *string {
	raw, ok := o.value(name, "a string")
	if !ok {
		return nil
	}
	return decode[string](raw)
}

func (o *object) flag(name string) *bool {
	raw, ok := o.value(name, "a boolean")
	if !ok {
		return nil
	}
	return decode[bool](raw)
}

// integer reads a whole number within a range, written without fraction and exponent.
func (o *object) integer(name string, least, most int) *int {
	raw, ok := o.value(name, "a number")
	if !ok {
		return nil
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil || n < least || n > most {
		o.faults.Add(o.at(name), "must be %d to %d, was %.32s", least, most, raw)
		return nil
	}
	return &n
}

// texts reads an array of strings: nil if it is absent, else not nil.
func (o *object) texts(name string) []string {
	raw, ok := o.value(name, "an array")
	if !ok {
		return nil
	}
	return readTexts(o.faults, o.at(name), raw)
}

func readTexts(f *faults, path string, raw json.RawMessage) []string {
	texts := []string{}
	for i, item := range *decode[[]json.RawMessage](raw) {
		if have := kind(item); have != "a string" {
			f.Add(fmt.Sprintf("%s[%d]", path, i), "must be a string, was %s", have)
			texts = append(texts, "") // so that the others keep their places
			continue
		}
		texts = append(texts, *decode[string](item))
	}
	return texts
}

// headers reads an object of arrays of strings. Names are the same in any case.
func (o *object) headers(name string) http.Header {
	inner := o.object(name)
	if inner == nil {
		return nil
	}
	inner.need(inner.names...) // null might mean that the name is to go
	headers := http.Header{}
	for _, header := range inner.names {
		canonical := http.CanonicalHeaderKey(header)
		if _, twice := headers[canonical]; twice {
			o.faults.Add(inner.at(header), "must be given once, in whatever case")
		}
		if values := inner.texts(header); values != nil {
			headers[canonical] = values
		}
	}
	return headers
}

// object reads an object: nil if it is absent.
func (o *object) object(name string) *object {
	raw, ok := o.value(name, "an object")
	if !ok {
		return nil
	}
	return readObject(o.faults, o.at(name), raw)
}

// decode reads a value whose kind is known.
func decode[T any](raw json.RawMessage) *T {
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		panic("httpapi: valid JSON cannot be read") // readBody has read it
	}
	return v
}
