package console_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
)

// A host mounts the console beside the API. Only its operators call either, so one function says who may do what.
func ExampleNew() {
	store := diverted.NewMemoryStore()
	defer store.Close()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	if err != nil {
		panic(err)
	}
	authorize := func(r *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error {
		if name, password, ok := r.BasicAuth(); !ok || name != "operator" || password != "not this one" {
			return httpapi.ErrUnauthenticated
		}
		return nil
	}

	api, err := httpapi.New(httpapi.Config{Diverted: store, Webhooks: store, Authorize: authorize})
	if err != nil {
		panic(err)
	}
	operators, err := console.New(console.Config{
		Store: store, Pinger: dispatcher, Authorize: authorize, Challenge: `Basic realm="operators"`,
	})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/event/", api)
	mux.Handle("/console/", operators)

	r := httptest.NewRequest("GET", "/console/tenants/7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11/webhooks", nil)
	r.SetBasicAuth("operator", "not this one")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "This tenant has no webhooks."))
	// Output: 200 true
}
