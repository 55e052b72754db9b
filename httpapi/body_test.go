package httpapi_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/divertedevents/diverted"
)

// bodyRoutes are the routes that have a body, with their limits.
func bodyRoutes(key diverted.WebhookKey) []struct {
	method, path string
	limit        int
} {
	return []struct {
		method, path string
		limit        int
	}{
		{"POST", webhooksPath(key.Tenant), 64 << 10},
		{"PATCH", webhookPath(key), 64 << 10},
		{"POST", "/event/" + key.Tenant.String() + "/events", 256 << 10},
	}
}

// webhooks returns how many webhooks and pending deliveries there are.
func (a *api) everything(key diverted.WebhookKey) string {
	a.t.Helper()
	webhooks, err := a.store.ListWebhooks(a.t.Context(), diverted.WebhookQuery{Tenant: key.Tenant})
	a.is.NoErr(err)
	pending, err := a.store.ListPending(a.t.Context(), diverted.DivertedQuery{Webhook: key})
	a.is.NoErr(err)
	return fmt.Sprintf("%d webhooks, version %d, %d pending", len(webhooks.Webhooks), webhooks.Webhooks[0].Version, len(pending.Deliveries))
}

func TestABodyIsOneJSONValueOfItsTypeAndSize(t *testing.T) {
	a := newAPI(t)
	key := a.webhook(tenant, 1).Key()
	before := a.everything(key)
	for _, route := range bodyRoutes(key) {
		for _, c := range []struct {
			name, body string
			headers    []string
			status     int
			code       string
		}{
			{"no type", `{}`, []string{"Content-Type", ""}, 415, "unsupported_media_type"},
			{"another type", `{}`, []string{"Content-Type", "text/json"}, 415, "unsupported_media_type"},
			{"a form", `{}`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"},
			{"merge patch", `{}`, []string{"Content-Type", "application/merge-patch+json"}, 415, "unsupported_media_type"},
			{"two types", `{}`, []string{"Content-Type", "application/json, text/html"}, 415, "unsupported_media_type"},
			{"another charset", `{}`, []string{"Content-Type", "application/json; charset=latin1"}, 415, "unsupported_media_type"},
			{"compressed", `{}`, []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type"},
			{"too large", strings.Repeat(" ", route.limit-1) + `{}`, nil, 413, "body_too_large"},
			{"empty", "", []string{"Content-Type", "application/json"}, 400, "malformed_body"},
			{"blank", " \n", nil, 400, "malformed_body"},
			{"cut off", `{"name":`, nil, 400, "malformed_body"},
			{"two values", `{}{}`, nil, 400, "malformed_body"},
			{"something after it", `{} x`, nil, 400, "malformed_body"},
			{"a comment", `{}//`, nil, 400, "malformed_body"},
			{"a comma too many", `{"name":"a",}`, nil, 400, "malformed_body"},
			{"single quotes", `{'name':'a'}`, nil, 400, "malformed_body"},
			{"NaN", `{"name":NaN}`, nil, 400, "malformed_body"},
			{"no UTF-8", "{\"name\":\"\xff\"}", nil, 400, "malformed_body"},
			{"a byte order mark", "\ufeff{}", nil, 400, "malformed_body"},
			{"too deep", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), nil, 400, "malformed_body"},
			{"an array", `[]`, nil, 400, "invalid_body"},
			{"null", `null`, nil, 400, "invalid_body"},
			{"a string", `"{}"`, nil, 400, "invalid_body"},
			{"unknown name", `{"nmae":"a"}`, nil, 400, "invalid_body"},
			{"name in another case", `{"Name":"a","TYPE":"b"}`, nil, 400, "invalid_body"},
			{"repeated name", `{"name":"a","name":"a","type":"b","type":"b"}`, nil, 400, "invalid_body"},
			{"repeated name, escaped", `{"name":"a","n\u0061me":"a"}`, nil, 400, "invalid_body"},
		} {
			res := a.do(route.method, route.path, c.body, c.headers...)
			if res.StatusCode != c.status || res.code() != c.code {
				t.Errorf("%s %s: %s: %d %s", route.method, route.path, c.name, res.StatusCode, res.body)
			}
			a.is.True(len(res.problem().Errors) > 0) // it says where
		}
		r := httptest.NewRequest(route.method, route.path, io.MultiReader(strings.NewReader(`{"name":`), iotest.ErrReader(io.ErrUnexpectedEOF)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		a.is.Equal(w.Code, 400) // the client went away in the middle
	}
	a.is.Equal(a.everything(key), before)
	a.is.Equal(a.do("PATCH", webhookPath(key), `{"name":"fits"}`+strings.Repeat(" ", 64<<10-15), "Content-Type", "Application/JSON; charset=UTF-8").StatusCode, 200)
}

func TestEveryFaultOfABodyIsToldByItsPathAtOnce(t *testing.T) {
	a := newAPI(t)
	key := a.webhook(tenant, 1).Key()
	before := a.everything(key)
	for body, want := range map[string]map[string]string{
		`{}`: {"name": "is required", "enabled": "is required", "eventTypes": "is required", "endpoint": "is required"},
		`{"name":7,"enabled":"true","eventTypes":"*","endpoint":[]}`: {
			"name": "must be a string, was a number", "enabled": "must be a boolean, was a string",
			"eventTypes": "must be an array, was a string", "endpoint": "must be an object, was an array",
		},
		`{"name":null,"enabled":null,"eventTypes":null,"endpoint":null}`: {
			"name": "must be a string, was null", "enabled": "must be a boolean, was null",
			"eventTypes": "must be an array, was null", "endpoint": "must be an object, was null",
		},
		`{"name":"a\u202eb","enabled":true,"eventTypes":[],"endpoint":{}}`: {
			"name": "must be 1 to 200 characters without control or bidi characters", "eventTypes": "must be 1 to 100 entries, was 0", "endpoint.url": "is required",
		},
		`{"name":"n","enabled":true,"eventTypes":["ok","not ok",3,"a.*.b"],"endpoint":{"url":"https://u:p@x","x y":1,"headers":{"A":"b","B":["c",1]},"secret":"whsec_","tag":"\u0000"}}`: {
			"eventTypes[1]": `must be 1 to 128 of the characters A–Z a–z 0–9 . _ -, with .* at its end for a prefix, or *, was "not ok"`,
			"eventTypes[2]": "must be a string, was a number", "eventTypes[3]": `must be 1 to 128 of the characters A–Z a–z 0–9 . _ -, with .* at its end for a prefix, or *, was "a.*.b"`,
			"endpoint.url": "must not have userinfo", `endpoint."x y"`: "is unknown; there are url, headers, secureSsl, hmacEnabled, secret, tag",
			"endpoint.headers.A": "must be an array, was a string", "endpoint.headers.B[1]": "must be a string, was a number",
			"endpoint.secret": "must hold 24 to 64 bytes, was 0", "endpoint.tag": "must be at most 200 characters without control or bidi characters",
		},
		`{"name":"n","enabled":true,"eventTypes":["*"],"useAutomationPlugin":true,"endpoint":{"url":"https://x","headers":{"X-A":["1"],"x-a":["2"]},"hmacEnabled":1},"failureHandling":
			{"triggers":["6xx","503"],"divert":"no","retryStrategy":{"attempts":11,"interval":1.5,"type":"quadratic","max":1},"alertEndpoint":{"url":"gopher://x","hmacEnabled":true,"secret":""},"retryStrategy":{}}}`: {
			"useAutomationPlugin":  "must be false or absent; there is no automation plugin",
			"endpoint.headers.x-a": "must be given once, in whatever case", "endpoint.hmacEnabled": "must be a boolean, was a number",
			"failureHandling.triggers[0]": `must be 3xx, 4xx, 5xx, timeout or a status 300 to 599, was "6xx"`, "failureHandling.divert": "must be a boolean, was a string",
			"failureHandling.retryStrategy.attempts": "must be 1 to 10, was 11", "failureHandling.retryStrategy.interval": "must be 1 to 86400, was 1.5",
			"failureHandling.retryStrategy.type": `must be exponential or linear, was "quadratic"`, "failureHandling.retryStrategy.max": "is unknown; there are attempts, interval, type",
			"failureHandling.alertEndpoint.url": "must begin with http:// or https://", "failureHandling.alertEndpoint.secret": "must not be empty; leave it out, and one is made where it is needed",
			"failureHandling.retryStrategy": "must be given once",
		},
		`{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":"https://x"},"failureHandling":{"triggers":[],"retryStrategy":{"attempts":0,"interval":0}}}`: {
			"failureHandling.triggers":               "must not be empty; allowed are 3xx, 4xx, 5xx, timeout or a status 300 to 599; leave it out for all of them",
			"failureHandling.retryStrategy.attempts": "must be 1 to 10, was 0", // an error, not a default
			"failureHandling.retryStrategy.interval": "must be 1 to 86400, was 0",
		},
		`{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":"https://x"},"failureHandling":{"retryStrategy":{"attempts":99999999999999999999,"interval":-1}}}`: {
			"failureHandling.retryStrategy.attempts": "must be 1 to 10, was 99999999999999999999", "failureHandling.retryStrategy.interval": "must be 1 to 86400, was -1",
		},
	} {
		res := a.do("POST", webhooksPath(tenant), body)
		a.is.Equal(res.StatusCode, 400)
		a.is.Equal(res.code(), "invalid_body")
		got := map[string]string{}
		for _, e := range res.problem().Errors {
			if _, twice := got[e.Path]; twice {
				t.Errorf("%s is told twice", e.Path)
			}
			got[e.Path] = e.Detail
		}
		for path, detail := range want {
			if got[path] != detail {
				t.Errorf("%s: %q, not %q", path, got[path], detail)
			}
			delete(got, path)
		}
		if len(got) > 0 {
			t.Errorf("unexpected: %v", got)
		}
	}
	a.is.Equal(a.everything(key), before)
}

func TestAFaultCostsNoMoreAmongManyOthers(t *testing.T) {
	a := newAPI(t)
	key := a.webhook(tenant, 1).Key()
	for _, c := range []struct{ method, path, before, after string }{
		{"POST", webhooksPath(tenant), `{"name":"a","enabled":true,"endpoint":{"url":"https://receiver.example"},"eventTypes":[`, `]}`},
		{"PATCH", webhookPath(key), `{"failureHandling":{"addTriggers":[`, `]}}`},
	} {
		least := func(least time.Duration, entry string, n int) time.Duration {
			body := c.before + strings.Repeat(entry+",", n-1) + entry + c.after
			began := time.Now()
			res := a.do(c.method, c.path, body)
			least = min(least, time.Since(began))
			a.is.Equal(res.StatusCode, 400)
			a.is.Equal(len(res.problem().Errors), 50)
			return least
		}
		// Each number is a fault here, and of the rules of package diverted, which is not told again. On a busy machine
		// it may take some tries until each had the processor for itself.
		rules, both := time.Hour, time.Hour
		for n := 0; n < 3 || n < 10 && both >= 15*rules; n++ {
			rules, both = least(rules, `""`, 20_000), least(both, "1", 32_000)
		}
		a.is.True(both < 15*rules)
	}
}

func TestNullIsTheSameAsLeavingAnOptionalMemberOut(t *testing.T) {
	a := newAPI(t)
	created := func(more, endpoint string) string {
		res := a.do("POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["order.*"],"endpoint":{"url":"https://receiver.example"`+endpoint+`}`+more+`}`)
		w := a.read(res)
		return strings.ReplaceAll(res.body, w.Locator, "")
	}
	a.is.Equal(created(`,"failureHandling":null,"useAutomationPlugin":null,"maxPerSecond":null`, `,"headers":null,"secureSsl":null,"hmacEnabled":null,"secret":null,"tag":null`), created(``, ``))
	a.is.Equal(created(`,"failureHandling":{"alertEndpoint":null,"divert":null,"retryStrategy":null,"suspend":null,"triggers":null}`, ``), created(`,"failureHandling":{}`, ``))
	a.is.Equal(created(`,"failureHandling":{"retryStrategy":{"attempts":null,"interval":null,"type":null}}`, ``), created(`,"failureHandling":{"retryStrategy":{}}`, ``))

	_, key := a.create(`,"endpoint":{"url":"https://receiver.example","headers":{"X-A":["1"]},"hmacEnabled":true,"tag":"eu"},
		"failureHandling":{"alertEndpoint":{"url":"https://alerts.example"},"divert":false,"suspend":true,"triggers":["5xx"],"retryStrategy":{"attempts":5,"interval":7,"type":"linear"}}`)
	before := a.do("GET", webhookPath(key), "").body
	for _, body := range []string{
		`{"name":null,"enabled":null,"endpoint":null,"failureHandling":null,"removeFailureHandling":null,"addEventTypes":null,"removeEventTypes":null,"maxPerSecond":null,"removeMaxPerSecond":null}`,
		`{"endpoint":{"url":null,"addHeaders":null,"removeHeaders":null,"secureSsl":null,"hmacEnabled":null,"secret":null,"revokeOldSecrets":null,"tag":null}}`,
		`{"failureHandling":{"alertEndpoint":null,"removeAlertEndpoint":null,"divert":null,"retryStrategy":null,"removeRetryStrategy":null,"suspend":null,"addTriggers":null,"removeTriggers":null}}`,
		`{"failureHandling":{"alertEndpoint":{"url":null,"tag":null},"retryStrategy":{"attempts":null,"interval":null,"type":null}}}`,
	} {
		a.is.Equal(a.do("PATCH", webhookPath(key), body).body, before)
	}
	a.is.Equal(a.do("PATCH", webhookPath(key), `{"name":"n","name":null}`).code(), "invalid_body") // given twice all the same

	res := a.do("POST", eventsPath, `{"type":"order.paid","data":null,"locator":null,"requestId":null,"userLocator":null,"timestamp":null}`)
	a.is.Equal(res.StatusCode, 202)
	a.is.True(a.do("POST", eventsPath, `{"type":null,"data":1}`).names("type")) // which is required
	a.is.True(a.do("POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":null}}`).names("endpoint.url"))
}

func TestNoProblemRepeatsWhatMayBeACredential(t *testing.T) {
	a := newAPI(t)
	key := a.webhook(tenant, 1).Key()
	const planted = "pl4nted"
	for _, endpoint := range []string{
		`{"url":"https://user:pl4nted@x"}`, `{"url":"https://x/?k=pl4nted#f"}`, `{"url":"gopher://x/?k=pl4nted"}`, `{"url":"https://x/%zz?pl4nted"}`,
		`{"url":"https://x","headers":{"A":["pl4nted\n"]}}`, `{"url":"https://x","headers":{"A":"pl4nted"}}`, `{"url":"https://x","headers":{"Host":["pl4nted"]}}`,
		`{"url":"https://x","secret":"pl4nted"}`, `{"url":"https://x","secret":"whsec_pl4nted"}`, `{"url":"https://x","secret":["pl4nted"]}`,
	} {
		for _, res := range []result{
			a.do("POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":`+endpoint+`}`),
			a.do("PATCH", webhookPath(key), `{"endpoint":`+strings.Replace(endpoint, `"headers"`, `"addHeaders"`, 1)+`}`),
			a.do("POST", webhooksPath(tenant), `{"name":"n","endpoint":`+endpoint+`"pl4nted`),
		} {
			a.is.Equal(res.StatusCode, 400)
			a.is.True(!strings.Contains(res.body, planted))
		}
	}
	a.is.True(!strings.Contains(a.log.String(), planted))
}
