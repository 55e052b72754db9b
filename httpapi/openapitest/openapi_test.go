package openapitest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/matryer/is"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// exchange is a request of the tests of httpapi, and its answer.
type exchange struct {
	Test, Method, Target string
	ContentType, Body    string
	Status               int
	Header               http.Header
	Answer               string
}

// exchanges runs the tests of httpapi once and returns all that they asked and were answered.
var exchanges = sync.OnceValues(func() ([]exchange, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "exchanges")
	test := exec.Command("go", "test", "-count=1", "-skip", "TestNoRandom", ".")
	test.Dir, test.Env = "..", append(os.Environ(), "HTTPAPI_RECORD="+file)
	if out, err := test.CombinedOutput(); err != nil {
		return nil, &failedTests{err, out}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []exchange
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return all, nil
		}
		var e exchange
		if err == nil {
			err = json.Unmarshal(line, &e)
		}
		if err != nil {
			return nil, err
		}
		if !strings.Contains(e.Body, "1e400") { // JSON that the validator cannot decode
			all = append(all, e)
		}
	}
})

type failedTests struct {
	err error
	out []byte
}

func (e *failedTests) Error() string { return e.err.Error() + "\n" + string(e.out) }

// document returns the document as the API serves it.
func document(t *testing.T) (libopenapi.Document, *v3.Document) {
	t.Helper()
	is := is.New(t)
	store := diverted.NewMemoryStore()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	is.NoErr(err)
	h, err := httpapi.New(httpapi.Config{Diverted: store, Webhooks: store, Publisher: dispatcher, Pinger: dispatcher, Authorize: httpapi.AllowAll})
	is.NoErr(err)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/event/openapi.json", nil))
	is.Equal(w.Code, 200)
	is.Equal(w.Header().Get("Content-Type"), "application/json")
	doc, err := libopenapi.NewDocument(w.Body.Bytes())
	is.NoErr(err)
	model, err := doc.BuildV3Model()
	is.NoErr(err)
	return doc, &model.Model
}

func TestTheDocumentIsOpenAPI31(t *testing.T) {
	is := is.New(t)
	doc, model := document(t)
	is.Equal(model.Version, "3.1.0")
	v, errs := validator.NewValidator(doc)
	is.Equal(len(errs), 0)
	valid, faults := v.ValidateDocument()
	for _, f := range faults {
		t.Error(f)
	}
	is.True(valid)
}

// request is the exchange's request, at the place where the document says it is.
func (e exchange) request() *http.Request {
	target := e.Target
	if at := strings.LastIndex(target, "/event/"); at > 0 {
		target = target[at:]
	}
	method := e.Method
	if method == http.MethodHead {
		method = http.MethodGet // as which it is answered
	}
	r := httptest.NewRequest(method, target, strings.NewReader(e.Body))
	if e.ContentType != "" {
		r.Header.Set("Content-Type", e.ContentType)
	}
	r.Header.Set("Authorization", "Bearer token")
	return r
}

func (e exchange) response(body []byte) *http.Response {
	return &http.Response{StatusCode: e.Status, Header: e.Header, Body: io.NopCloser(bytes.NewReader(body))}
}

func (e exchange) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(e.Answer), &problem)
	return problem.Code
}

// operation returns the operation that an exchange called, nil if the path or the method has none.
func operation(model *v3.Document, e exchange) *v3.Operation {
	r := e.request()
	path := strings.Split(r.URL.EscapedPath(), "/")
	if r.Method != strings.ToUpper(r.Method) {
		return nil // methods are case-sensitive
	}
	for template, item := range model.Paths.PathItems.FromOldest() {
		if last := path[len(path)-1]; strings.HasSuffix(template, "Locator}") && (last == "list" || last == "stats" || last == "resend") {
			continue // which is another path
		}
		matches := func(segment, have string) bool {
			return strings.HasPrefix(segment, "{") && have != "" || segment == have
		}
		if slices.EqualFunc(strings.Split(template, "/"), path, matches) {
			return item.GetOperations().GetOrZero(strings.ToLower(r.Method))
		}
	}
	return nil
}

// outside names the response of an exchange that called no operation, "" if it called one.
func outside(op *v3.Operation, e exchange) string {
	switch {
	case e.code() == "no_route":
		return "NoRoute"
	case e.code() == "method_not_allowed":
		return "MethodNotAllowed"
	case op == nil && e.Status == http.StatusBadRequest:
		return "InvalidParameter" // an empty segment, which the document cannot describe
	}
	return ""
}

func TestEveryRecordedAnswerIsAsTheDocumentSays(t *testing.T) {
	is := is.New(t)
	doc, model := document(t)
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions())
	is.Equal(len(errs), 0)
	schemas := schema_validation.NewSchemaValidator()
	all, err := exchanges()
	is.NoErr(err)

	succeeded := map[string]bool{} // by operation, and by operation?parameter
	codes := map[string]bool{}
	checked := 0
	for _, e := range all {
		codes[e.code()] = true
		op := operation(model, e)
		if e.Method == http.MethodHead {
			continue // there is no body to hold against the document
		}
		if name := outside(op, e); name != "" {
			schema := model.Components.Responses.GetOrZero(name).Content.GetOrZero("application/problem+json").Schema.Schema()
			if ok, faults := schemas.ValidateSchemaString(schema, e.Answer); !ok {
				t.Errorf("%s: %s %s: %d %s: %v", e.Test, e.Method, e.Target, e.Status, e.Answer, faults)
			}
			continue
		}
		if op == nil {
			t.Errorf("%s: %s %s: %d, but there is no such operation", e.Test, e.Method, e.Target, e.Status)
			continue
		}
		if e.Status < 300 {
			succeeded[op.OperationId] = true
			for name := range e.request().URL.Query() {
				succeeded[op.OperationId+"?"+name] = true
			}
			if ok, faults := v.ValidateHttpRequestSync(e.request()); !ok {
				t.Errorf("%s: %s %s %s was answered %d, but the document refuses it: %v", e.Test, e.Method, e.Target, e.Body, e.Status, faults)
			}
		}
		if ok, faults := v.ValidateHttpResponse(e.request(), e.response([]byte(e.Answer))); !ok {
			t.Errorf("%s: %s %s was answered %d %s: %v", e.Test, e.Method, e.Target, e.Status, e.Answer, faults)
		}
		checked++

		// The check itself is checked: with one member more the answer must not pass.
		if more, ok := strings.CutPrefix(e.Answer, `{"`); ok && op.OperationId != "getOpenAPI" {
			if ok, _ := v.ValidateHttpResponse(e.request(), e.response([]byte(`{"unheardOf":1,"`+more))); ok {
				t.Errorf("%s %s: the document lets an unknown member pass in %s", e.Method, e.Target, e.Answer)
			}
		}
	}
	t.Logf("%d answers", checked)
	is.True(checked > 500)

	for template, item := range model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			if !succeeded[op.OperationId] {
				t.Errorf("no test of httpapi shows a success of %s %s", method, template)
			}
			for _, p := range op.Parameters {
				if p.In == "query" && !succeeded[op.OperationId+"?"+p.Name] {
					t.Errorf("no test of httpapi shows a success of %s %s with the parameter %s", method, template, p.Name)
				}
			}
		}
	}
	for name, response := range model.Components.Responses.FromOldest() {
		var listed []string
		is.NoErr(response.Extensions.GetOrZero("x-problem-codes").Decode(&listed))
		for _, code := range listed {
			if !codes[code] {
				t.Errorf("no test of httpapi shows %s, which %s lists", code, name)
			}
		}
	}
}

func TestASchemaRefusesNoBodyThatTheAPITakes(t *testing.T) {
	is := is.New(t)
	doc, model := document(t)
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions())
	is.Equal(len(errs), 0)
	all, err := exchanges()
	is.NoErr(err)
	refused := 0
	for _, e := range all {
		op := operation(model, e)
		if op == nil || op.RequestBody == nil || e.ContentType != "application/json" {
			continue
		}
		ok, _ := v.GetRequestBodyValidator().ValidateRequestBody(e.request())
		if !ok {
			refused++
			if e.Status < 400 {
				t.Errorf("%s: the document refuses %s, which was answered %d", e.Test, e.Body, e.Status)
			}
		}
	}
	is.True(refused > 50) // it refuses something
}

func TestEverySchemaIsUsed(t *testing.T) {
	is := is.New(t)
	_, model := document(t)
	raw, err := os.ReadFile("../openapi.json")
	is.NoErr(err)
	for name := range model.Components.Schemas.FromOldest() {
		is.True(bytes.Contains(raw, []byte(`"#/components/schemas/`+name+`"`)))
	}
	for name := range model.Components.Responses.FromOldest() {
		used := bytes.Contains(raw, []byte(`"#/components/responses/`+name+`"`))
		is.Equal(used, name != "NoRoute" && name != "MethodNotAllowed") // these are of no operation
	}
}
