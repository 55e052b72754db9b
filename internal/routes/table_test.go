package routes_test

import (
	"net/http/httptest"
	"testing"

	"github.com/matryer/is"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted/internal/routes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFind(t *testing.T) {
	var table routes.Table[string]
	table.Add("GET", "", "home")
	table.Add("GET", "event/{tenant}/webhooks/list", "list")
	table.Add("POST", "event/{tenant}/webhooks/{webhook}", "write")
	table.Add("GET", "event/{tenant}/webhooks/{webhook}", "read")
	for _, c := range []struct {
		method, path, route, allow, tenant string
		none                               bool
	}{
		{method: "GET", path: "/event/t/webhooks/w", route: "read", tenant: "t"},
		{method: "HEAD", path: "/event/t/webhooks/w", route: "read", tenant: "t"},
		{method: "POST", path: "/a/b/event/t/webhooks/w", route: "write", tenant: "t"},
		{method: "GET", path: "/event/t/webhooks/list", route: "list", tenant: "t"},
		{method: "POST", path: "/event/t/webhooks/list", allow: "GET, HEAD", tenant: "t"},
		{method: "GET", path: "/event/event/t/webhooks/w", route: "read", tenant: "t"}, // the host's own event
		{method: "GET", path: "/event/a%2Fb/webhooks/w", route: "read", tenant: "a/b"},
		{method: "GET", path: "/event//webhooks/w", route: "read", tenant: ""},
		{method: "GET", path: "/console/", route: "home"},
		{method: "DELETE", path: "/console/", allow: "GET, HEAD"},
		{method: "GET", path: "/event/t/webhooks/w/more", none: true},
		{method: "GET", path: "/%65vent/t/webhooks/w", none: true},
		{method: "GET", path: "/console", none: true},
	} {
		is := is.New(t)
		m, found := table.Find(httptest.NewRequest(c.method, c.path, nil))
		is.Equal(found, !c.none)
		is.Equal(m.Route, c.route)
		is.Equal(m.Allow, c.allow)
		is.Equal(m.Values["tenant"], c.tenant)
	}
}
