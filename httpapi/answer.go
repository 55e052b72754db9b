package httpapi

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
)

// answer is what goes out.
type answer struct {
	status int
	header http.Header
	// body is encoded as JSON. Nil: none.
	body any
}

// ok answers 200 with a body.
func ok(body any) (answer, error) { return answer{status: http.StatusOK, body: body}, nil }

// each is [] of nothing, never null.
func each[T, R any](all []T, f func(T) R) []R {
	items := make([]R, len(all))
	for i, one := range all {
		items[i] = f(one)
	}
	return items
}

// empty is the body {}.
type empty struct{}

// write sends the answer with the headers that all answers have.
func (a answer) write(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	maps.Copy(header, a.header)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	body := encode(a.body)
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client has gone; there is nobody to tell
	}
}

// encode returns v as JSON with < > & as they are, since nothing here is put into HTML.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // the wire types of this package can always be encoded
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
