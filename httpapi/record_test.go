package httpapi_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
)

// exchange is a request of these tests, and its answer. The module openapitest reads them.
type exchange struct {
	Test, Method, Target string
	ContentType, Body    string
	Status               int
	Header               http.Header
	Answer               string
}

var recording sync.Mutex

// recorded appends every exchange to the file that HTTPAPI_RECORD names, if it does.
func recorded(t *testing.T, h http.Handler) http.Handler {
	file := os.Getenv("HTTPAPI_RECORD")
	if file == "" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		r.Body = io.NopCloser(io.TeeReader(r.Body, &body))
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, r)
		line, err := json.Marshal(exchange{
			Test: t.Name(), Method: r.Method, Target: r.URL.RequestURI(),
			ContentType: r.Header.Get("Content-Type"), Body: body.String(),
			Status: recorder.Code, Header: recorder.Header(), Answer: recorder.Body.String(),
		})
		if err == nil {
			err = appendLine(file, line)
		}
		if err != nil {
			t.Error(err)
		}
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	})
}

func appendLine(file string, line []byte) error {
	recording.Lock()
	defer recording.Unlock()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}
