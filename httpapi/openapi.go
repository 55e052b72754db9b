package httpapi

import (
	_ "embed"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// document describes every route that a handler can have, as OpenAPI 3.1. It is written by hand; the module
// openapitest holds it and the answers of this package's tests against each other.
//
//go:embed openapi.json
var document []byte

// openapi returns the document without the routes that this handler does not have.
func (h *Handler) openapi() map[string]json.RawMessage {
	paths := map[string]map[string]json.RawMessage{}
	var d map[string]json.RawMessage
	mustUnmarshal(document, &d)
	mustUnmarshal(d["paths"], &paths)
	have := map[string]bool{} // by path, and by method and path
	for _, t := range h.routes() {
		have["/"+t.path] = true
		have[strings.ToLower(t.method)+" /"+t.path] = true
	}
	for path, methods := range paths {
		for method := range methods {
			if method != "parameters" && !have[method+" "+path] {
				delete(methods, method)
			}
		}
		if !have[path] {
			delete(paths, path)
		}
	}
	d["paths"] = encode(paths)
	return d
}

func mustUnmarshal(data []byte, v any) {
	if err := json.Unmarshal(data, v); err != nil {
		panic("httpapi: openapi.json: " + err.Error()) // it is embedded: a broken build
	}
}

// serveOpenAPI answers the document, with the place where it was asked for as its server.
func (h *Handler) serveOpenAPI(c *call) (answer, error) {
	d := maps.Clone(h.document)
	d["servers"] = encode([]server{{URL: mount(c.r), Description: "Where this document was served from."}})
	return ok(d)
}

type server struct {
	URL         string `json:"url"`
	Description string `json:"description"`
}

// mount is the path in front of "/event/", as the client sent it, or "/" where there is none: what the paths
// of the document are appended to (OpenAPI 3.1, section 4.8.5). A reference relative to the document, such as
// "..", cannot say it, since it resolves to a path that ends in a slash.
func mount(r *http.Request) string {
	path := r.URL.EscapedPath()
	// A router that strips its prefix leaves RequestURI alone.
	if asked, err := url.ParseRequestURI(r.RequestURI); err == nil && strings.Contains(asked.Path, "/event/") {
		path = asked.EscapedPath()
	}
	path = path[:max(strings.LastIndex(path, "/event/"), 0)]
	return "/" + strings.Trim(path, "/") // never //host, which would be another server
}
