package httpapi

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/google/uuid"
	"github.com/matryer/is"
)

// bare is a store that can do nothing that is optional.
type bare struct{ diverted.DivertedStore }

type openAPI struct {
	Paths map[string]map[string]struct {
		Permissions []string `json:"x-permissions"`
		Group       string   `json:"x-security-group"`
		Security    *[]any
		Parameters  []struct {
			Ref string `json:"$ref"`
		}
	}
	Components struct {
		Parameters map[string]struct{ Name string }
		Schemas    struct {
			Problem struct {
				Properties struct {
					Code struct{ Enum []string }
				}
			}
		}
		Responses map[string]struct {
			Codes []string `json:"x-problem-codes"`
		}
	}
}

// served returns the document that a handler serves, decoded; "parameters" of a path are left out.
func served(t *testing.T, h *Handler) (d openAPI) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/prefix/event/openapi.json", nil))
	var raw map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &raw); err != nil {
		t.Fatal(err)
	}
	for _, path := range raw["paths"].(map[string]any) {
		delete(path.(map[string]any), "parameters")
	}
	encoded, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheOpenAPIDocumentHasTheRoutesThatThereAreAndNoOthers(t *testing.T) {
	is := is.New(t)
	store := diverted.NewMemoryStore()
	for _, config := range []Config{
		{}, {Diverted: bare{store}}, {Webhooks: store}, {Webhooks: store, Pinger: &diverted.Dispatcher{}}, {Publisher: &diverted.Dispatcher{}}, everyRoute(t).config,
	} {
		config.Diverted = cmp.Or[diverted.DivertedStore](config.Diverted, store)
		config.Authorize = AllowAll
		h, err := New(config)
		is.NoErr(err)
		d := served(t, h)
		described := 0
		for _, path := range d.Paths {
			described += len(path)
		}
		is.Equal(described, len(h.routes()))
		for _, r := range h.routes() {
			op, found := d.Paths["/"+r.path][strings.ToLower(r.method)]
			is.True(found)
			is.Equal(op.Security != nil, r.open) // the open ones say so
			var permissions, query []string
			for _, p := range r.permissions {
				permissions = append(permissions, string(p))
			}
			is.Equal(strings.Join(op.Permissions, " "), strings.Join(permissions, " "))
			is.True(r.open || strings.HasPrefix(permissions[0], op.Group+":")) // the first says what it is about
			for _, p := range op.Parameters {
				query = append(query, d.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")].Name)
			}
			is.Equal(query, r.query)
		}
	}
}

func TestPathsOfTheOpenAPIDocumentAppendedToItsServerAreRoutes(t *testing.T) {
	h, err := New(Config{Diverted: diverted.NewMemoryStore(), Authorize: AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	strip := func(prefix string) http.Handler {
		mux := http.NewServeMux()
		mux.Handle(prefix+"/", http.StripPrefix(prefix, h))
		return mux
	}
	for _, tt := range []struct {
		name    string
		handler http.Handler
		asked   string
		server  string
	}{
		{"at the root", h, "http://api.example/event/openapi.json", "/"},
		{"below a prefix", h, "http://api.example/v1/event/openapi.json", "/v1"},
		{"below a prefix that is stripped", strip("/v1/hooks"), "http://api.example/v1/hooks/event/openapi.json", "/v1/hooks"},
		{"below a prefix that looks like a route", h, "http://api.example/event/event/openapi.json", "/event"},
		{"below a prefix that must be escaped", h, "http://api.example/a%2Fb/%7Bx%7D/event/openapi.json", "/a%2Fb/%7Bx%7D"},
		{"escaped otherwise", h, "http://api.example/v1/event/openapi%2Ejson", "/v1"},
		{"below what looks like another host", h, "http://api.example//evil.example/event/openapi.json", "/evil.example"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			get := func(url string) *httptest.ResponseRecorder {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("GET", url, nil)
				r.RequestURI = r.URL.RequestURI() // as a client sends it
				tt.handler.ServeHTTP(w, r)
				return w
			}
			var d struct {
				Servers []struct{ URL string }
				Paths   map[string]any
			}
			is.NoErr(json.Unmarshal(get(tt.asked).Body.Bytes(), &d))
			is.Equal(len(d.Servers), 1)
			is.Equal(d.Servers[0].URL, tt.server)

			const list = "/event/{tenantLocator}/webhooks/{webhookLocator}/diverted"
			is.True(d.Paths[list] != nil)
			document, err := url.Parse(tt.asked)
			is.NoErr(err)
			server, err := document.Parse(d.Servers[0].URL)
			is.NoErr(err)
			is.Equal(server.Host, "api.example")
			path := strings.NewReplacer("{tenantLocator}", uuid.NewString(), "{webhookLocator}", "01JDCPY00000000000000000H1").Replace(list)
			is.Equal(get(strings.TrimSuffix(server.String(), "/")+path).Code, 200)
		})
	}
}

func TestTheOpenAPIDocumentHasEveryProblemCode(t *testing.T) {
	is := is.New(t)
	d := served(t, everyRouteServed(t))
	var codes []string
	for _, p := range append(slices.Clone(problems), unforeseen) {
		if !slices.Contains(codes, p.code) {
			codes = append(codes, p.code)
		}
	}
	enum := d.Components.Schemas.Problem.Properties.Code.Enum
	is.Equal(slices.Sorted(slices.Values(enum)), slices.Sorted(slices.Values(codes)))
	var used []string
	for _, r := range d.Components.Responses {
		used = append(used, r.Codes...)
	}
	for _, code := range codes {
		is.True(slices.Contains(used, code)) // some response says when it comes
	}
}

func everyRouteServed(t *testing.T) *Handler {
	t.Helper()
	config := everyRoute(t).config
	config.Authorize = func(*http.Request, uuid.UUID, ...Permission) error { return ErrUnauthenticated } // the document needs none
	h, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
