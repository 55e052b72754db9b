package httpapi_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

const (
	secretA = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secretB = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// wire is a webhook as a client reads it.
type wire struct {
	Locator         string
	Name            string
	Enabled         bool
	Suspended       bool
	SuspendedAt     *string
	EventTypes      []string
	Endpoint        wireEndpoint
	FailureHandling struct {
		AlertEndpoint *wireEndpoint
		Divert        bool
		RetryStrategy *struct {
			Attempts, Interval int
			Type               string
		}
		Suspend  bool
		Triggers []string
	}
	MaxPerSecond *int
}

type wireEndpoint struct {
	URL         string
	Headers     map[string][]string
	SecureSsl   bool
	HMACEnabled bool
	Secret      *string
	Tag         *string
}

// read decodes an answer that is to be a webhook.
func (a *api) read(res result) (w wire) {
	a.t.Helper()
	if res.StatusCode != 200 {
		a.t.Fatalf("%d %s", res.StatusCode, res.body)
	}
	a.is.NoErr(json.Unmarshal([]byte(res.body), &w))
	return w
}

// create creates a webhook over HTTP; more is added to its members.
func (a *api) create(more string) (wire, diverted.WebhookKey) {
	a.t.Helper()
	w := a.read(a.do("POST", webhooksPath(tenant), `{"name":"orders","enabled":true,"eventTypes":["order.*"]`+more+`}`))
	locator, err := ulid.ParseStrict(w.Locator)
	a.is.NoErr(err)
	return w, diverted.WebhookKey{Tenant: tenant, Webhook: locator}
}

const plainEndpoint = `,"endpoint":{"url":"https://receiver.example/hook"}`

func TestCreateAnswersTheWebhookWithTheHandlingInEffect(t *testing.T) {
	a := newAPI(t)
	res := a.do("POST", webhooksPath(tenant), `{"name":"Bestellungen €","enabled":true,"eventTypes":["order.*","*"],"endpoint":{"url":"https://receiver.example/hook?a=1&b=<2>"}}`)
	locator := a.read(res).Locator
	a.is.Equal(res.body, `{"locator":"`+locator+`","name":"Bestellungen €","enabled":true,"suspended":false,"suspendedAt":null,"eventTypes":["order.*","*"],`+
		`"endpoint":{"url":"https://receiver.example/hook?a=1&b=<2>","headers":{},"secureSsl":true,"hmacEnabled":false,"secret":null,"tag":null},`+
		`"failureHandling":{"alertEndpoint":null,"divert":true,"retryStrategy":{"attempts":10,"interval":60,"type":"exponential"},"suspend":false,"triggers":["3xx","4xx","5xx","timeout"]},"maxPerSecond":null}`)
	a.is.Equal(a.do("GET", webhooksPath(tenant)+"/"+strings.ToLower(locator), "").body, res.body)
}

func TestCreateTakesEveryMember(t *testing.T) {
	a := newAPI(t)
	w, key := a.create(`,"useAutomationPlugin":false,"endpoint":{"url":"https://receiver.example/hook","headers":{"x-key":["k1","k2"],"Authorization":["Bearer t"]},"secureSsl":true,"hmacEnabled":true,"secret":"` + secretA + `","tag":"eu"},
		"failureHandling":{"alertEndpoint":{"url":"https://alerts.example","tag":"ops"},"divert":false,"suspend":true,"triggers":["5XX","Timeout","429","5xx"],
		"retryStrategy":{"attempts":10,"interval":86400,"type":"linear"}}`)
	a.is.Equal(w.FailureHandling.Triggers, []string{"5xx", "timeout", "429"})
	a.is.Equal(w.FailureHandling.RetryStrategy.Interval, 86400)
	a.is.Equal(*w.FailureHandling.AlertEndpoint.Tag, "ops")
	a.is.Equal(w.FailureHandling.Divert, false)

	stored, err := a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(stored.Endpoint.Headers.Values("X-Key"), []string{"k1", "k2"})
	a.is.Equal(string(stored.Endpoint.Secret), secretA)
	a.is.Equal(*stored.FailureHandling.Retry, diverted.RetryStrategy{Attempts: 10, Interval: 24 * time.Hour, Type: diverted.Linear})
}

func TestFailureHandlingThatIsGivenHasItsOwnDefaults(t *testing.T) {
	a := newAPI(t)
	w, _ := a.create(plainEndpoint + `,"failureHandling":{}`)
	a.is.Equal(w.FailureHandling.Divert, true)        // absent: true on the wire
	a.is.True(w.FailureHandling.RetryStrategy == nil) // absent: no retries
	a.is.Equal(len(w.FailureHandling.Triggers), 4)    // absent: all
	w, _ = a.create(plainEndpoint + `,"failureHandling":{"retryStrategy":{}}`)
	a.is.Equal(w.FailureHandling.RetryStrategy.Attempts, 3)
	a.is.Equal(w.FailureHandling.RetryStrategy.Interval, 60)
	a.is.Equal(w.FailureHandling.RetryStrategy.Type, "exponential")
}

func TestASecretThatIsMadeIsShownInFullOnceAndThenMasked(t *testing.T) {
	a := newAPI(t)
	w, key := a.create(`,"endpoint":{"url":"https://receiver.example","hmacEnabled":true},"failureHandling":{"alertEndpoint":{"url":"https://alerts.example","hmacEnabled":true}}`)
	stored, err := a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(*w.Endpoint.Secret, string(stored.Endpoint.Secret))
	a.is.Equal(*w.FailureHandling.AlertEndpoint.Secret, string(stored.FailureHandling.Alert.Secret))
	a.is.True(*w.Endpoint.Secret != *w.FailureHandling.AlertEndpoint.Secret)

	for _, later := range []wire{a.read(a.do("GET", webhookPath(key), "")), a.read(a.do("PATCH", webhookPath(key), `{"endpoint":{"hmacEnabled":true}}`))} {
		a.is.Equal(*later.Endpoint.Secret, "whsec_***")
		a.is.Equal(*later.FailureHandling.AlertEndpoint.Secret, "whsec_***")
	}

	w, key = a.create(plainEndpoint) // made by an update
	a.is.True(w.Endpoint.Secret == nil)
	w = a.read(a.do("PATCH", webhookPath(key), `{"endpoint":{"hmacEnabled":true},"failureHandling":{"alertEndpoint":{"url":"https://alerts.example","hmacEnabled":true}}}`))
	stored, err = a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(*w.Endpoint.Secret, string(stored.Endpoint.Secret))
	a.is.Equal(*w.FailureHandling.AlertEndpoint.Secret, string(stored.FailureHandling.Alert.Secret))
	a.is.NoErr(stored.Endpoint.Secret.Validate())
}

func TestASecretThatTheCallerGaveIsNeverShown(t *testing.T) {
	a := newAPI(t)
	res := a.do("POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":"https://receiver.example","hmacEnabled":true,"secret":"`+secretA+`"}}`)
	a.is.Equal(*a.read(res).Endpoint.Secret, "whsec_***")
}

func TestHeaderValuesAreAlwaysMaskedAndAMaskIsRefused(t *testing.T) {
	a := newAPI(t)
	w, key := a.create(`,"endpoint":{"url":"https://receiver.example","headers":{"authorization":["Bearer s3cret"],"X-Two":["a","b"]}}`)
	a.is.Equal(w.Endpoint.Headers, map[string][]string{"Authorization": {"***"}, "X-Two": {"***", "***"}})
	res := a.do("PATCH", webhookPath(key), `{"endpoint":{"addHeaders":{"Authorization":["***"]}}}`)
	a.is.Equal(res.code(), "invalid_body")
	a.is.True(res.names("endpoint.addHeaders.Authorization[0]"))
	res = a.do("PATCH", webhookPath(key), `{"endpoint":{"secret":"whsec_***"}}`)
	a.is.True(res.names("endpoint.secret"))
	stored, err := a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(stored.Endpoint.Headers.Get("Authorization"), "Bearer s3cret")
}

func TestAnUpdateChangesWhatItNamesAndNothingElse(t *testing.T) {
	a := newAPI(t)
	_, key := a.create(`,"endpoint":{"url":"https://receiver.example/a","headers":{"X-One":["1"],"X-Two":["2"]},"tag":"old"},
		"failureHandling":{"triggers":["5xx"],"retryStrategy":{"attempts":5,"interval":7,"type":"linear"},"alertEndpoint":{"url":"https://alerts.example"}}`)
	before := a.do("GET", webhookPath(key), "").body
	a.is.Equal(a.do("PATCH", webhookPath(key), `{}`).body, before)

	step := func(body string) wire { return a.read(a.do("PATCH", webhookPath(key), body)) }
	a.is.Equal(step(`{"name":"renamed","enabled":false}`).Name, "renamed")
	a.is.Equal(step(`{"addEventTypes":["policy.issued","order.*"],"removeEventTypes":["other"]}`).EventTypes, []string{"order.*", "policy.issued"})
	a.is.Equal(step(`{"removeEventTypes":["order.*"]}`).EventTypes, []string{"policy.issued"})
	w := step(`{"endpoint":{"url":"https://receiver.example/b","addHeaders":{"X-Three":["3"]},"removeHeaders":["x-one"],"tag":""}}`)
	a.is.Equal(w.Endpoint.URL, "https://receiver.example/b")
	a.is.Equal(len(w.Endpoint.Headers), 2)
	a.is.True(w.Endpoint.Tag == nil)
	w = step(`{"endpoint":{"url":"https://other.example/b"}}`)
	a.is.Equal(len(w.Endpoint.Headers), 0) // they were credentials for the receiver that was
	w = step(`{"failureHandling":{"addTriggers":["timeout"],"removeTriggers":["5XX"],"retryStrategy":{"attempts":9},"divert":false,"suspend":true}}`)
	a.is.Equal(w.FailureHandling.Triggers, []string{"timeout"})
	a.is.Equal(w.FailureHandling.RetryStrategy.Attempts, 9)
	a.is.Equal(w.FailureHandling.RetryStrategy.Interval, 7)
	w = step(`{"failureHandling":{"removeRetryStrategy":true,"removeAlertEndpoint":true}}`)
	a.is.True(w.FailureHandling.RetryStrategy == nil)
	a.is.True(w.FailureHandling.AlertEndpoint == nil)
	w = step(`{"removeFailureHandling":true}`)
	a.is.Equal(w.FailureHandling.RetryStrategy.Attempts, 10) // the default
	a.is.Equal(w.Name, "renamed")
	a.is.Equal(w.Enabled, false)
}

func TestTheAttemptsOfASecondCanBeBounded(t *testing.T) {
	a := newAPI(t)
	w, key := a.create(plainEndpoint + `,"maxPerSecond":10000`)
	a.is.Equal(*w.MaxPerSecond, 10000)
	a.is.Equal(*a.read(a.do("GET", webhookPath(key), "")).MaxPerSecond, 10000)
	step := func(body string) *int { return a.read(a.do("PATCH", webhookPath(key), body)).MaxPerSecond }
	a.is.Equal(*step(`{"maxPerSecond":1}`), 1)
	a.is.Equal(*step(`{"name":"other","maxPerSecond":null,"removeMaxPerSecond":false}`), 1)
	stored, err := a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(stored.MaxPerSecond, 1)

	for _, n := range []string{"0", "-1", "10001", "1.5", "1e2", `"5"`, "true"} {
		res := a.do("POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["*"],"maxPerSecond":`+n+plainEndpoint+`}`)
		a.is.Equal(res.code(), "invalid_body")
		a.is.True(res.names("maxPerSecond"))
		res = a.do("PATCH", webhookPath(key), `{"maxPerSecond":`+n+`}`)
		a.is.True(res.names("maxPerSecond"))
	}
	a.is.True(a.do("PATCH", webhookPath(key), `{"maxPerSecond":5,"removeMaxPerSecond":true}`).names("removeMaxPerSecond"))
	a.is.True(step(`{"removeMaxPerSecond":true}`) == nil)
	a.is.True(step(`{"removeMaxPerSecond":true}`) == nil) // there was none
}

func TestAnUpdateThatFailsChangesNothingAndTellsAllItsFaults(t *testing.T) {
	a := newAPI(t)
	_, key := a.create(`,"endpoint":{"url":"https://receiver.example"},"failureHandling":{"triggers":["5xx"]}`)
	before := a.do("GET", webhookPath(key), "").body
	for body, paths := range map[string][]string{
		`{"name":"fine","failureHandling":{"retryStrategy":{"attempts":11}}}`:                          {"failureHandling.retryStrategy.attempts"},
		`{"name":"fine","failureHandling":{"retryStrategy":{"attempts":0,"interval":0,"type":""}}}`:    {"failureHandling.retryStrategy.attempts", "failureHandling.retryStrategy.interval", "failureHandling.retryStrategy.type"},
		`{"name":"","enabled":"yes","endpoint":{"url":"ftp://x"},"wrong":1}`:                           {"name", "enabled", "endpoint.url", "wrong"},
		`{"failureHandling":{"addTriggers":["4xx"],"removeTriggers":["4XX"]}}`:                         {"failureHandling.removeTriggers"},
		`{"failureHandling":{"removeTriggers":["5xx"]}}`:                                               {"failureHandling.removeTriggers"},
		`{"failureHandling":{"retryStrategy":{},"removeRetryStrategy":true}}`:                          {"failureHandling.removeRetryStrategy"},
		`{"failureHandling":{"alertEndpoint":{"url":"https://a.example"},"removeAlertEndpoint":true}}`: {"failureHandling.removeAlertEndpoint"},
		`{"failureHandling":{"alertEndpoint":{"tag":"no URL stands"}}}`:                                {"failureHandling.alertEndpoint.url"},
		`{"failureHandling":{"suspend":true},"removeFailureHandling":true}`:                            {"removeFailureHandling"},
		`{"addEventTypes":["a"],"removeEventTypes":["a"]}`:                                             {"removeEventTypes"},
		`{"removeEventTypes":["order.*"]}`:                                                             {"removeEventTypes"},
		`{"addEventTypes":["a b",1]}`:                                                                  {"addEventTypes[0]", "addEventTypes[1]"},
		`{"endpoint":{"secret":""}}`:                                                                   {"endpoint.secret"},
		`{"endpoint":{"secureSsl":false}}`:                                                             {"endpoint.secureSsl"},
		`{"endpoint":{"addHeaders":{"Host":["evil"],"Cookie":["a"],"X-A":[1]}}}`:                       {"endpoint.addHeaders.Host", "endpoint.addHeaders.Cookie", "endpoint.addHeaders.X-A[0]"},
		`{"eventTypes":["a"],"failureHandling":{"triggers":["5xx"]}}`:                                  {"eventTypes", "failureHandling.triggers"},
		`{"endpoint":{"addHeaders":{"X-A":null},"removeHeaders":[null]},"addEventTypes":[null]}`:       {"endpoint.addHeaders.X-A", "endpoint.removeHeaders[0]", "addEventTypes[0]"},
	} {
		res := a.do("PATCH", webhookPath(key), body)
		a.is.Equal(res.StatusCode, 400)
		a.is.Equal(res.code(), "invalid_body")
		p := res.problem()
		if len(p.Errors) != len(paths) {
			t.Errorf("%s: %v", body, p.Errors)
		}
		for _, path := range paths {
			if !res.names(path) {
				t.Errorf("%s: %s is missing in %v", body, path, p.Errors)
			}
		}
		a.is.Equal(a.do("GET", webhookPath(key), "").body, before)
	}
}

func TestFaultsOfAnUpdateAreToldBeforeTheWebhookIsLookedUp(t *testing.T) {
	a := newAPI(t)
	unknown := webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(99)})
	a.is.Equal(a.do("PATCH", unknown, `{"name":""}`).StatusCode, 400)
	a.is.Equal(a.do("PATCH", unknown, `{"failureHandling":{"removeTriggers":["6xx"]}}`).StatusCode, 400)
	a.is.Equal(a.asked.count(), 0)
	types := make([]string, 100)
	for i := range types {
		types[i] = fmt.Sprintf(`"t%d"`, i)
	}
	all := strings.Join(types, ",")
	for _, body := range []string{`{"name":"fine"}`, `{"removeEventTypes":["*","stand.in.0"]}`, `{"failureHandling":{"removeTriggers":["3xx","4xx","5xx","timeout"]}}`, `{"addEventTypes":[` + all + `]}`} {
		a.is.Equal(a.do("PATCH", unknown, body).StatusCode, 404) // these depend on what stands
	}
}

func TestConcurrentUpdatesAllApply(t *testing.T) {
	a := newAPI(t)
	_, key := a.create(plainEndpoint)
	statuses := make([]int, 8)
	var writers sync.WaitGroup
	for i := range statuses {
		writers.Go(func() {
			r := httptest.NewRequest("PATCH", webhookPath(key), strings.NewReader(fmt.Sprintf(`{"addEventTypes":["t%d"]}`, i)))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			statuses[i] = w.Code
		})
	}
	writers.Wait()
	applied := 1
	for _, status := range statuses {
		a.is.True(status == 200 || status == 409)
		if status == 200 {
			applied++
		}
	}
	a.is.Equal(len(a.read(a.do("GET", webhookPath(key), "")).EventTypes), applied) // none of them is lost
}

func TestAnUpdateThatLosesEveryRaceIs409(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.Webhooks = conflicting{c.Webhooks} })
	_, key := a.create(plainEndpoint)
	res := a.do("PATCH", webhookPath(key), `{"name":"other"}`)
	a.is.Equal(res.StatusCode, 409)
	a.is.Equal(res.code(), "conflict")
	a.is.Equal(a.read(a.do("GET", webhookPath(key), "")).Name, "orders")
}

// conflicting is a store where somebody else is always faster.
type conflicting struct{ diverted.WebhookStore }

func (conflicting) UpdateWebhook(context.Context, diverted.Webhook) (diverted.Webhook, error) {
	return diverted.Webhook{}, diverted.ErrConflict
}

func TestDeleteOfAWebhookThatHasEventsIsRefusedUnlessTheyAreDiscarded(t *testing.T) {
	a := newAPI(t)
	_, key := a.create(plainEndpoint)
	d := a.divert(key, 7)
	res := a.do("DELETE", webhookPath(key), "")
	a.is.Equal(res.StatusCode, 409)
	a.is.Equal(res.code(), "not_empty")
	a.is.Equal(a.do("DELETE", webhookPath(key)+"?discard=false", "").StatusCode, 409)
	a.is.Equal(a.do("DELETE", webhookPath(key)+"?discard=yes", "").StatusCode, 400)
	a.is.Equal(a.do("GET", eventPath(d.Key), "").StatusCode, 200) // nothing changed

	res = a.do("DELETE", webhookPath(key)+"?discard=true", "")
	a.is.Equal(res.StatusCode, 204)
	a.is.Equal(res.body, "")
	a.is.Equal(res.Header.Get("Content-Type"), "")
	a.is.Equal(a.do("GET", eventPath(d.Key), "").StatusCode, 404)
	a.is.Equal(a.do("GET", webhookPath(key), "").StatusCode, 404)
	a.is.Equal(a.do("DELETE", webhookPath(key), "").StatusCode, 404)

	_, key = a.create(plainEndpoint)
	a.is.Equal(a.do("DELETE", webhookPath(key), "").StatusCode, 204)

	d = a.divert(diverted.WebhookKey{Tenant: key.Tenant, Webhook: ulid.Make()}, 7) // of a webhook that the store does not know
	a.is.Equal(a.do("DELETE", webhookPath(d.WebhookKey()), "").StatusCode, 409)
	a.is.Equal(a.do("DELETE", webhookPath(d.WebhookKey())+"?discard=true", "").StatusCode, 204)
	a.is.Equal(a.do("GET", eventPath(d.Key), "").StatusCode, 404)
	a.is.Equal(a.do("DELETE", webhookPath(d.WebhookKey())+"?discard=true", "").StatusCode, 404)
}

func TestSuspendIs204AlsoWhenItWasSuspendedAlready(t *testing.T) {
	a := newAPI(t)
	_, key := a.create(plainEndpoint)
	var since string
	for range 2 {
		res := a.do("PATCH", webhookPath(key)+"/suspend", "")
		a.is.Equal(res.StatusCode, 204)
		a.is.Equal(res.body, "")
		w := a.read(a.do("GET", webhookPath(key), ""))
		a.is.True(w.Suspended)
		since = cmp.Or(since, *w.SuspendedAt)
		a.is.Equal(*w.SuspendedAt, since)
	}
	a.is.Equal(a.do("PATCH", webhookPath(key)+"/suspend?force=1", "").code(), "invalid_parameter")
	a.is.Equal(a.do("PATCH", webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(99)})+"/suspend", "").StatusCode, 404)
}

func TestUnsuspendIs204AlsoWhenItWasNotSuspended(t *testing.T) {
	a := newAPI(t)
	_, key := a.create(plainEndpoint)
	a.is.NoErr(a.store.Suspend(t.Context(), key))
	w := a.read(a.do("GET", webhookPath(key), ""))
	a.is.True(w.Suspended)
	_, err := time.Parse("2006-01-02T15:04:05.000Z", *w.SuspendedAt)
	a.is.NoErr(err)
	for range 2 {
		res := a.do("PATCH", webhookPath(key)+"/unsuspend", "")
		a.is.Equal(res.StatusCode, 204)
		a.is.Equal(res.body, "")
		w = a.read(a.do("GET", webhookPath(key), ""))
		a.is.True(!w.Suspended)
		a.is.True(w.SuspendedAt == nil)
	}
	a.is.Equal(a.do("PATCH", webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(99)})+"/unsuspend", "").StatusCode, 404)
}

func TestPingTellsHowATestAttemptEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		_, key := a.create(plainEndpoint)
		a.is.Equal(a.do("POST", webhookPath(key)+"/ping", "").body, `{"delivered":true,"failureTrigger":null,"failureMessage":null}`)
		a.is.Equal(len(a.posts), 1)

		time.Sleep(4500 * time.Millisecond)
		res := a.do("POST", webhookPath(key)+"/ping", "")
		a.is.Equal(res.StatusCode, 429)
		a.is.Equal(res.code(), "too_often")
		a.is.Equal(res.Header.Get("Retry-After"), "1") // rounded up
		a.is.Equal(len(a.posts), 1)
		_, other := a.create(plainEndpoint)
		a.is.Equal(a.do("POST", webhookPath(other)+"/ping", "").StatusCode, 200) // each webhook has its own

		time.Sleep(500 * time.Millisecond)
		a.status = 503
		var ping struct {
			Delivered                      bool
			FailureTrigger, FailureMessage string
		}
		res = a.do("POST", webhookPath(key)+"/ping", "")
		a.is.Equal(res.StatusCode, 200)
		a.is.NoErr(json.Unmarshal([]byte(res.body), &ping))
		a.is.Equal(ping.Delivered, false)
		a.is.Equal(ping.FailureTrigger, "503")
		a.is.True(ping.FailureMessage != "")
		a.is.Equal(a.do("POST", webhookPath(diverted.WebhookKey{Tenant: foreign, Webhook: key.Webhook})+"/ping", "").StatusCode, 404)
	})
}

func TestListWebhooksByTheirFilters(t *testing.T) {
	a := newAPI(t)
	for n, change := range []func(*diverted.Webhook){
		func(w *diverted.Webhook) { w.EventTypes = []string{"order.*"} },
		func(w *diverted.Webhook) { w.Name, w.EventTypes = "other", []string{"order.paid", "policy.issued"} },
		func(w *diverted.Webhook) { w.Enabled = false },
		func(w *diverted.Webhook) { w.Endpoint.Secret = secretA },
	} {
		a.webhook(tenant, byte(n+1), change)
	}
	a.webhook(foreign, 50)
	a.is.NoErr(a.store.Suspend(t.Context(), diverted.WebhookKey{Tenant: tenant, Webhook: locator(4)}))

	for query, want := range map[string][]byte{
		"":                                     {1, 2, 3, 4},
		"?name=other":                          {2},
		"?name=Other":                          {},
		"?enabled=false":                       {3},
		"?enabled=true&suspended=false":        {1, 2},
		"?suspended=true":                      {4},
		"?active=true":                         {1, 2},
		"?active=false":                        {3, 4},
		"?eventTypes=order.paid":               {1, 2, 3, 4},
		"?eventTypes=policy.issued":            {2, 3, 4},
		"?eventTypes=order.x,none&active=true": {1},
		"?offset=3":                            {4},
		"?after=" + locator(2).String():        {3, 4},
	} {
		list, _ := a.list(query)
		a.is.True(list.ListCompleted)
		got := []byte{}
		for _, item := range list.Items {
			id, err := ulid.ParseStrict(item.Locator)
			a.is.NoErr(err)
			got = append(got, id[15])
		}
		a.is.Equal(got, want) // query
	}
	list, res := a.list("?count=2&eventTypes=policy.issued,x")
	a.is.True(!list.ListCompleted)
	a.is.Equal(res.Header.Get("Link"), `<?count=2&after=`+list.Items[1].Locator+`&eventTypes=policy.issued%2Cx>; rel="next"`)
	list, _ = a.list("?count=2&after=" + list.Items[1].Locator + "&eventTypes=policy.issued%2Cx")
	a.is.True(list.ListCompleted)
	a.is.Equal(len(list.Items), 1)
	list, _ = a.list("?count=100")
	a.is.True(list.ListCompleted)
	a.is.Equal(a.do("GET", webhooksPath(uuid.New())+"/list", "").body, `{"listCompleted":true,"items":[]}`)

	for query, name := range map[string]string{
		"?enabled=1": "enabled", "?suspended=TRUE": "suspended", "?active=": "active", "?name=": "name", "?name=%FF": "name",
		"?name=" + strings.Repeat("x", 201): "name", "?eventTypes=": "eventTypes", "?eventTypes=a,,b": "eventTypes", "?eventTypes=a%20b": "eventTypes",
		"?eventTypes=a&eventTypes=b": "eventTypes", "?count=0": "count", "?count=101": "count", "?state=x": "state",
	} {
		res := a.do("GET", webhooksPath(tenant)+"/list"+query, "")
		a.is.Equal(res.StatusCode, 400)
		a.is.True(res.names(name))
	}
}

func (a *api) list(query string) (list struct {
	ListCompleted bool
	Items         []wire
}, res result) {
	a.t.Helper()
	res = a.do("GET", webhooksPath(tenant)+"/list"+query, "")
	a.is.Equal(res.StatusCode, 200)
	a.is.NoErr(json.Unmarshal([]byte(res.body), &list))
	return list, res
}

func TestUnknownAndForeignWebhooksAreAnsweredInTheSameBytes(t *testing.T) {
	a := newAPI(t)
	theirs := a.webhook(foreign, 2).Key()
	a.divert(theirs, 8)
	for _, m := range []struct{ method, suffix, body string }{
		{"GET", "", ""}, {"PATCH", "", `{"name":"mine"}`}, {"PATCH", "", `{"name":""}`}, {"DELETE", "", ""}, {"DELETE", "?discard=true", ""},
		{"PATCH", "/suspend", ""}, {"PATCH", "/unsuspend", ""}, {"POST", "/ping", ""},
	} {
		unknown := a.do(m.method, webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(90)})+m.suffix, m.body)
		their := a.do(m.method, webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: theirs.Webhook})+m.suffix, m.body)
		a.is.True(unknown.StatusCode == 404 || unknown.StatusCode == 400)
		a.is.Equal(their.StatusCode, unknown.StatusCode)
		a.is.Equal(their.body, unknown.body)
		a.is.Equal(their.Header, unknown.Header)
	}
	w, err := a.store.FetchWebhook(t.Context(), theirs)
	a.is.NoErr(err)
	a.is.Equal(w.Version, int64(1))
	a.is.Equal(len(a.posts), 0)
}

func TestRoutesExistOnlyWhereTheirFieldsAreSet(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.Webhooks, c.Publisher, c.Pinger = nil, nil, nil })
	key := diverted.WebhookKey{Tenant: tenant, Webhook: locator(1)}
	for _, m := range []struct{ method, path string }{
		{"POST", webhooksPath(tenant)}, {"GET", webhooksPath(tenant) + "/list"}, {"GET", webhookPath(key)}, {"PATCH", webhookPath(key)}, {"DELETE", webhookPath(key)},
		{"PATCH", webhookPath(key) + "/suspend"}, {"PATCH", webhookPath(key) + "/unsuspend"}, {"POST", webhookPath(key) + "/ping"}, {"POST", "/event/" + tenant.String() + "/events"},
	} {
		a.is.Equal(a.do(m.method, m.path, `{}`).code(), "no_route")
	}
	a.is.Equal(a.do("GET", listPath(key), "").StatusCode, 200)

	a = newAPI(t, func(c *httpapi.Config) { c.Pinger = nil })
	a.is.Equal(a.do("POST", webhookPath(key)+"/ping", "").code(), "no_route")
	_, err := httpapi.New(httpapi.Config{Diverted: a.store, Authorize: httpapi.AllowAll, Pinger: (*diverted.Dispatcher)(nil)})
	a.is.True(err != nil) // a pinger needs webhooks
}

func TestAReplacedSecretGoesOnSigningForTheOverlapUnlessRevoked(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.SecretOverlap = time.Hour })
	_, key := a.create(`,"endpoint":{"url":"https://receiver.example","hmacEnabled":true,"secret":"` + secretA + `"}`)
	a.is.Equal(*a.read(a.do("PATCH", webhookPath(key), `{"endpoint":{"secret":"`+secretB+`"}}`)).Endpoint.Secret, "whsec_***")
	stored, err := a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(string(stored.Endpoint.Secret), secretB)
	a.is.Equal(string(stored.Endpoint.OldSecrets[0].Secret), secretA)
	left := time.Until(stored.Endpoint.OldSecrets[0].Until)
	a.is.True(left > 59*time.Minute && left <= time.Hour)

	a.do("PATCH", webhookPath(key), `{"endpoint":{"revokeOldSecrets":true}}`)
	stored, err = a.store.FetchWebhook(t.Context(), key)
	a.is.NoErr(err)
	a.is.Equal(len(stored.Endpoint.OldSecrets), 0)
	a.is.Equal(string(stored.Endpoint.Secret), secretB)
}

func TestTheOpenAPIDocumentNeedsNoCredentials(t *testing.T) {
	a := newAPI(t, authorized(func(*http.Request, uuid.UUID, ...httpapi.Permission) error { return httpapi.ErrUnauthenticated }))
	res := a.do("GET", "/event/openapi.json", "")
	a.is.Equal(res.StatusCode, 200)
	a.is.True(strings.HasPrefix(res.body, `{"components":`))
	a.is.Equal(a.do("GET", "/event/openapi.json?v=2", "").code(), "invalid_parameter")
	a.is.Equal(a.do("POST", "/event/openapi.json", "").code(), "method_not_allowed")
}

func TestInsecureTLSIsForTheOperatorToAllow(t *testing.T) {
	body := `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":"https://receiver.example","secureSsl":false}}`
	a := newAPI(t)
	a.is.True(a.do("POST", webhooksPath(tenant), body).names("endpoint.secureSsl"))
	a = newAPI(t, func(c *httpapi.Config) { c.AllowInsecureTLS = true })
	w := a.read(a.do("POST", webhooksPath(tenant), body))
	a.is.Equal(w.Endpoint.SecureSsl, false)
	w = a.read(a.do("PATCH", webhooksPath(tenant)+"/"+w.Locator, `{"endpoint":{"secureSsl":true}}`))
	a.is.Equal(w.Endpoint.SecureSsl, true)
}
