package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

var (
	_ httpapi.Publisher = (*diverted.Dispatcher)(nil)
	_ httpapi.Pinger    = (*diverted.Dispatcher)(nil)
)

var eventsPath = "/event/" + tenant.String() + "/events"

func TestPublishMakesTheEventPendingWhereverItIsWanted(t *testing.T) {
	a := newAPI(t)
	all := a.webhook(tenant, 1).Key()
	some := a.webhook(tenant, 2, func(w *diverted.Webhook) { w.EventTypes = []string{"issues"} }).Key()
	a.webhook(tenant, 3, func(w *diverted.Webhook) { w.Enabled = false })
	a.webhook(foreign, 4)

	payload := testdata.Payloads()[0]
	event := locator(77)
	body := fmt.Sprintf(`{"type":%q,"data":%s,"locator":%q,"requestId":"01JDCPY00000000000000000R1","userLocator":%q,"timestamp":"2026-11-23T18:58:00.5+01:00"}`,
		payload.Type, payload.Data, strings.ToLower(event.String()), strings.ToUpper(foreign.String()))
	res := a.do("POST", eventsPath, body)
	a.is.Equal(res.StatusCode, 202)
	a.is.Equal(res.body, `{"locator":"`+event.String()+`","deliveries":1}`)
	a.is.Equal(a.do("POST", eventsPath, body).body, `{"locator":"`+event.String()+`","deliveries":0}`) // the same again adds nothing

	pending, err := a.store.ListPending(t.Context(), diverted.DivertedQuery{Webhook: all})
	a.is.NoErr(err)
	a.is.Equal(len(pending.Deliveries), 1)
	a.is.Equal(pending.Deliveries[0].RequestLocator, ulid.MustParse("01JDCPY00000000000000000R1"))
	pending, err = a.store.ListPending(t.Context(), diverted.DivertedQuery{Webhook: some})
	a.is.NoErr(err)
	a.is.Equal(len(pending.Deliveries), 0)

	var published struct {
		Locator    string
		Deliveries int
	}
	res = a.do("POST", eventsPath, `{"type":"issues","data":{"action":"opened"}}`) // the rest is made
	a.is.NoErr(json.Unmarshal([]byte(res.body), &published))
	a.is.Equal(published.Deliveries, 2)
	_, err = ulid.ParseStrict(published.Locator)
	a.is.NoErr(err)
}

func TestPublishTakesAnyJSONValueAsItIs(t *testing.T) {
	var given diverted.Event
	a := newAPI(t, func(c *httpapi.Config) {
		c.Publisher = publisher(func(_ context.Context, _ uuid.UUID, e diverted.Event) ([]diverted.Acceptance, error) {
			given = e
			return nil, nil
		})
	})
	for _, data := range []string{`null`, `0`, `"<&>\u2028"`, `[]`, `1.10`, `1e400`, `{"a":1,"a":2,"locator":3}`, `{"deep":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`} {
		res := a.do("POST", eventsPath, `{"type":"order.paid","data":`+data+`}`)
		a.is.Equal(res.StatusCode, 202)
		a.is.Equal(string(given.Data), data)
	}
	a.is.Equal(a.do("POST", eventsPath, `{"type":"big","data":"`+strings.Repeat("x", 256<<10-24)+`"}`).StatusCode, 202) // 256 KiB in all
}

type publisher func(context.Context, uuid.UUID, diverted.Event) ([]diverted.Acceptance, error)

func (f publisher) Publish(ctx context.Context, tenant uuid.UUID, event diverted.Event) ([]diverted.Acceptance, error) {
	return f(ctx, tenant, event)
}

func TestFaultsOfAnEventAreToldByTheirPaths(t *testing.T) {
	a := newAPI(t)
	key := a.webhook(tenant, 1).Key()
	for body, paths := range map[string][]string{
		`{}`: {"type", "data"},
		`{"type":"a b","data":1,"locator":"x","requestId":"","userLocator":"{7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11}","timestamp":"yesterday"}`: {"type", "locator", "requestId", "userLocator", "timestamp"},
		`{"type":1,"data":1,"locator":1,"requestId":1,"userLocator":1,"timestamp":1}`:                                                         {"type", "locator", "requestId", "userLocator", "timestamp"},
		`{"type":"a","data":1,"timestamp":"2026-11-23 18:58:00"}`:                                                                             {"timestamp"},
		`{"type":"a","data":1,"timestamp":"2026-11-23T18:58:00"}`:                                                                             {"timestamp"},
		`{"type":"a","data":1,"timestamp":"2026-11-23T9:58:00Z"}`:                                                                             {"timestamp"},
		`{"type":"a","data":1,"timestamp":"2026-11-23T18:58:00+24:60"}`:                                                                       {"timestamp"},
		`{"type":"a","data":1,"timestamp":"2026-02-30T18:58:00Z"}`:                                                                            {"timestamp"},
		`{"type":"a","data":1,"userLocator":"00000000-0000-0000-0000-000000000000"}`:                                                          {"userLocator"},
		`{"type":"a","data":1,"locator":"00000000000000000000000000"}`:                                                                        {"locator"},
		`{"type":"a","data":1,"tenant":"b"}`:                                                                                                  {"tenant"},
		`{"type":"a","data":1,"data":2}`:                                                                                                      {"data"},
	} {
		res := a.do("POST", eventsPath, body)
		a.is.Equal(res.code(), "invalid_body")
		if len(res.problem().Errors) != len(paths) {
			t.Errorf("%s: %v", body, res.problem().Errors)
		}
		for _, path := range paths {
			if !res.names(path) {
				t.Errorf("%s: %s is missing in %v", body, path, res.problem().Errors)
			}
		}
	}
	pending, err := a.store.ListPending(t.Context(), diverted.DivertedQuery{Webhook: key})
	a.is.NoErr(err)
	a.is.Equal(len(pending.Deliveries), 0)
}

func TestAWebhookThatIsFullDoesNotHaveItsTenantRepeatEveryEvent(t *testing.T) {
	var statuses []diverted.AcceptStatus
	a := newAPI(t, func(c *httpapi.Config) {
		c.Publisher = publisher(func(_ context.Context, _ uuid.UUID, e diverted.Event) (results []diverted.Acceptance, err error) {
			for i, s := range statuses {
				r := diverted.Acceptance{Webhook: locator(byte(i)), Status: s}
				if s == diverted.Refused {
					r.Err = diverted.ErrFull
					err = errors.Join(err, fmt.Errorf("webhook %s: %w", r.Webhook, r.Err))
				}
				results = append(results, r)
			}
			return results, err
		})
	})
	const accepted, pending, set, refused = diverted.Accepted, diverted.AlreadyPending, diverted.AlreadyDiverted, diverted.Refused
	for _, tt := range []struct {
		statuses []diverted.AcceptStatus
		want     string
	}{
		{[]diverted.AcceptStatus{accepted, accepted}, `"deliveries":2}`},
		{[]diverted.AcceptStatus{accepted, refused, accepted, refused}, `"deliveries":2,"refused":2}`},
		{[]diverted.AcceptStatus{refused, pending, set}, `"deliveries":0,"refused":1}`}, // a repetition that finds no room again
	} {
		statuses = tt.statuses
		res := a.do("POST", eventsPath, `{"type":"order.paid","data":{"order":"A-1001"},"locator":"01JDCPY00000000000000000E1"}`)
		a.is.Equal(res.StatusCode, 202)
		a.is.Equal(res.body, `{"locator":"01JDCPY00000000000000000E1",`+tt.want)
	}
	statuses = []diverted.AcceptStatus{refused, refused}
	res := a.do("POST", eventsPath, `{"type":"order.paid","data":{"order":"A-1001"}}`)
	a.is.Equal(res.StatusCode, 503)
	a.is.Equal(res.code(), "full")
	a.is.True(res.problem().Locator != "")
}

func TestAnEventOfUncertainFateIsToBeRepeatedUnderItsLocator(t *testing.T) {
	var fail error
	var given diverted.Event
	a := newAPI(t, func(c *httpapi.Config) {
		c.Publisher = publisher(func(_ context.Context, _ uuid.UUID, e diverted.Event) ([]diverted.Acceptance, error) {
			given = e
			return nil, fail
		})
	})
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{errors.Join(fmt.Errorf("webhook x: %w", diverted.ErrFull)), 503, "full"},
		{diverted.ErrLocked, 503, "unavailable"},
		{context.DeadlineExceeded, 503, "unavailable"},
		{errors.New("disk"), 500, "internal"},
	} {
		fail = c.err
		res := a.do("POST", eventsPath, `{"type":"order.paid","data":{"order":"A-1001"}}`)
		a.is.Equal(res.StatusCode, c.status)
		a.is.Equal(res.code(), c.code)
		a.is.Equal(res.problem().Locator, given.Locator.String())
		a.is.True(c.status != 503 || res.Header.Get("Retry-After") != "")
	}
}
