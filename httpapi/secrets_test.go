package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// planted is in every secret, header value, query string, userinfo and token of these tests.
const planted = "pl4nted"

const (
	plantedSecret   = "whsec_pl4ntedSecretOfTheEndpoint+First/AAAAAAAAAAA"
	plantedNext     = "whsec_pl4ntedSecretOfTheEndpoint+Next/AAAAAAAAAAAA"
	plantedAlert    = "whsec_pl4ntedSecretOfTheAlert+Endpoint/AAAAAAAAAAA"
	plantedToken    = "pl4nted-token"
	plantedHeader   = "Bearer pl4nted-header"
	plantedQuery    = "key=pl4nted-query&sig=pl4nted%2Bsig"
	plantedUserinfo = "pl4nted-user:pl4nted-password"
)

// paper is what is written down: logs, answers, stored messages.
type paper struct {
	mu sync.Mutex
	bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Buffer.Write(b)
}

func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Buffer.String()
}

// clean fails the test if something planted is found in a text, whose name is where.
func clean(t *testing.T, where, text string) {
	t.Helper()
	lower := strings.ToLower(text)
	for at := 0; ; at++ {
		i := strings.Index(lower[at:], planted)
		if i < 0 {
			return
		}
		at += i
		t.Errorf("in %s: …%s…", where, text[max(at-100, 0):min(at+100, len(text))])
	}
}

// captureLogs has everything that is logged by default, by package log too, written to a paper.
func captureLogs(t *testing.T) *paper {
	logs := new(paper)
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true})))
	t.Cleanup(func() { slog.SetDefault(before) })
	return logs
}

// tattling is how a receiver answers with what it was told in confidence: said is the header value,
// everything is the whole request.
var tattling = map[string]func(said, everything string) string{
	"in the body": func(_, everything string) string {
		return fmt.Sprintf("HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n%s", len(everything), everything)
	},
	"in a body that is cut off": func(said, _ string) string { return "HTTP/1.1 404 No\r\n\r\n" + strings.Repeat("x", 16<<10-12) + said },
	"in the status line":        func(said, _ string) string { return "HTTP/1.1 503 " + said + "\r\nContent-Length: 0\r\n\r\n" },
	"in its headers": func(said, _ string) string {
		return "HTTP/1.1 503 No\r\nX-A: " + said + "\r\nRetry-After: " + said + "\r\nContent-Length: 0\r\n\r\n"
	},
	"in a redirect": func(said, _ string) string {
		return "HTTP/1.1 302 No\r\nLocation: http://pl4nted:" + said + "@127.0.0.1/?" + plantedQuery + "\r\nContent-Length: 0\r\n\r\n"
	},
	"behind the answer":       func(said, _ string) string { return "HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno" + said },
	"in place of an answer":   func(said, _ string) string { return said + "\r\n\r\n" },
	"in place of a status":    func(said, _ string) string { return "HTTP/1.1 " + said + " OK\r\n\r\n" },
	"in a malformed header":   func(said, _ string) string { return "HTTP/1.1 200 OK\r\n" + said + "\r\n\r\n" },
	"in place of a length":    func(said, _ string) string { return "HTTP/1.1 200 OK\r\nContent-Length: " + said + "\r\n\r\n" },
	"in place of an encoding": func(said, _ string) string { return "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + said + "\r\n\r\n" },
	"in place of a chunk": func(said, _ string) string {
		return "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n" + said + "\r\n"
	},
	"in an interim answer":  func(said, _ string) string { return "HTTP/1.1 103 " + said + "\r\nLink: " + said + "\r\n\r\n" },
	"never, since it hangs": nil,
}

// tattler runs a receiver, and returns its address.
func tattler(t *testing.T, answer func(said, everything string) string, told *paper) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	ended := make(chan struct{})
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				everything, _ := httputil.DumpRequest(req, true)
				body, _ := io.ReadAll(req.Body)
				clean(t, "the body of a message", string(body))
				told.Write(everything)
				if answer == nil {
					<-ended
					return
				}
				io.WriteString(conn, answer(req.Header.Get("Authorization"), string(everything)))
				conn.SetReadDeadline(time.Now().Add(time.Second))
				io.Copy(io.Discard, conn) // until the sender has had enough
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(ended)
		group.Wait()
	})
	return l.Addr().String()
}

// client calls the API, and writes down every answer.
type client struct {
	t       *testing.T
	url     string
	answers paper
	codes   map[string]bool
}

// urls are what the tenant is shown again of its webhooks' URLs: all of them, since it has to know them.
var urls = regexp.MustCompile(`"url":"[^"]*"`)

func (c *client) do(method, path, body string) (status int, answer string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+plantedToken)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	dump, err := httputil.DumpResponse(res, true)
	if err != nil {
		c.t.Fatal(err)
	}
	_, answer, _ = strings.Cut(string(dump), "\r\n\r\n")
	if res.StatusCode < 300 {
		dump = urls.ReplaceAll(dump, nil)
	} else {
		var p problem
		if err := json.Unmarshal([]byte(answer), &p); err != nil {
			c.t.Errorf("%s %s: %s", method, path, answer)
		}
		c.codes[p.Code] = true
	}
	c.answers.Write(dump)
	return res.StatusCode, answer
}

// Over the real network and on a store on disk: secrets, header values, query strings, userinfo and tokens are
// planted everywhere, receivers tell all they know, and calls of the API succeed, fail and panic.
func TestNothingPlantedIsFoundInAnswersLogsProblemsPanicsAndStoredMessages(t *testing.T) {
	is := is.New(t)
	logs, told, seen := captureLogs(t), new(paper), new(paper)
	file := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := diverted.OpenSQLite(t.Context(), file)
	is.NoErr(err)
	defer store.Close()
	observe := func(a diverted.Attempt) { fmt.Fprintf(seen, "%+v %+v\n", a, a.Failure) }
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Timeout: 500 * time.Millisecond, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Observer: diverted.Observer{Attempted: observe, Diverted: observe, Dropped: observe, Held: observe},
	})
	is.NoErr(err)
	var panics, fails any // what Authorize does
	watching := &watched{Store: store}
	api, err := httpapi.New(httpapi.Config{
		Diverted: watching, Webhooks: watching, Publisher: dispatcher, Pinger: dispatcher,
		Authorize: func(r *http.Request, _ uuid.UUID, _ ...httpapi.Permission) error {
			switch {
			case panics != nil:
				panic(panics)
			case fails != nil:
				return httpapi.ErrForbidden
			case r.Header.Get("Authorization") != "Bearer "+plantedToken:
				return httpapi.ErrUnauthenticated
			}
			return nil
		},
	})
	is.NoErr(err)
	server := httptest.NewServer(api)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	c := &client{t: t, url: server.URL, codes: map[string]bool{}}

	endpoint := func(url, secret string) string {
		return fmt.Sprintf(`{"url":"%s/hook?%s","hmacEnabled":true,"secret":%q,"headers":{"Authorization":[%q],"X-Key":["pl4nted-key","pl4nted-key-2"]}}`,
			url, plantedQuery, secret, plantedHeader)
	}
	hosts := map[string]string{
		"speaks no TLS":        "https://" + tattler(t, tattling["in the body"], told),
		"is not there":         "http://name.invalid",
		"is not allowed":       "http://10.0.0.1",
		"refuses a connection": "http://127.0.0.1:1",
	}
	for name, answer := range tattling {
		hosts[name] = "http://" + tattler(t, answer, told)
	}
	var hooks []string
	for name, host := range hosts {
		for _, handling := range []string{
			`{"divert":true,"alertEndpoint":%s}`,
			`{"divert":true,"suspend":true,"alertEndpoint":%s}`,
			`{"divert":false,"triggers":["599"],"alertEndpoint":%s}`,
		} {
			status, answer := c.do("POST", webhooksPath(tenant), fmt.Sprintf(`{"name":%q,"enabled":true,"eventTypes":["*"],"endpoint":%s,"failureHandling":`+handling+`}`,
				name, endpoint(host, plantedSecret), endpoint(host+"/alerts", plantedAlert)))
			is.Equal(status, 200)
			var w wire
			is.NoErr(json.Unmarshal([]byte(answer), &w))
			hooks = append(hooks, webhooksPath(tenant)+"/"+w.Locator)
		}
	}
	for _, hook := range hooks {
		status, _ := c.do("PATCH", hook, fmt.Sprintf(`{"endpoint":{"secret":%q,"addHeaders":{"X-More":["pl4nted-more"]}}}`, plantedNext))
		is.Equal(status, 200)
	}
	for i := range hooks {
		if i%3 == 0 { // one of each host
			status, _ := c.do("POST", hooks[i]+"/ping", "")
			is.Equal(status, 200)
		}
	}
	for _, p := range testdata.Payloads()[:2] {
		status, _ := c.do("POST", eventsPath, fmt.Sprintf(`{"type":%q,"data":%s}`, p.Type, p.Data))
		is.Equal(status, 202)
	}
	is.NoErr(dispatcher.Flush(t.Context()))

	stored := 0
	for _, hook := range hooks {
		c.do("GET", hook, "")
		c.do("GET", hook+"/pending", "")
		_, list := c.do("GET", hook+"/diverted?extended=true", "")
		var events []struct{ EventLocator string }
		is.NoErr(json.Unmarshal([]byte(list), &events))
		for _, e := range events {
			c.do("GET", hook+"/diverted/"+e.EventLocator, "")
			c.do("GET", hook+"/diverted/"+e.EventLocator+"?extended=true", "")
			c.do("POST", hook+"/diverted/"+e.EventLocator+"/resend", "")
			stored++
		}
		c.do("PATCH", hook+"/suspend", "")
		c.do("PATCH", hook+"/unsuspend", "")
	}
	c.do("GET", webhooksPath(tenant)+"/list?count=100", "")
	is.NoErr(dispatcher.Flush(t.Context())) // the resent and the unsuspended ones
	is.True(stored > len(hosts))

	// What is kept of failures, as it is on disk.
	db, err := sql.Open("sqlite", "file:"+file)
	is.NoErr(err)
	defer db.Close()
	messages := 0
	for _, query := range []string{`SELECT failure FROM diverted_deliveries WHERE failure IS NOT NULL`, `SELECT coalesce(open, '') || coalesce(sending, '') FROM diverted_notices`} {
		rows, err := db.QueryContext(t.Context(), query)
		is.NoErr(err)
		for rows.Next() {
			var text string
			is.NoErr(rows.Scan(&text))
			clean(t, "a stored message", text)
			messages++
		}
		is.NoErr(rows.Err())
	}
	is.True(messages > len(hosts))

	// Calls that are the caller's fault, and some that are nobody's.
	bad := []string{
		`{"url":"https://` + plantedUserinfo + `@receiver.example"}`, `{"url":"https://receiver.example/?` + plantedQuery + `#pl4nted"}`,
		`{"url":"https://receiver.example/%zz?` + plantedQuery + `"}`, `{"url":"gopher://` + plantedUserinfo + `@x/?` + plantedQuery + `"}`,
		`{"url":"https://x","%s":{"Authorization":["pl4nted\r\nX: y"],"Host":["pl4nted"],"Cookie":["pl4nted"],"X":"pl4nted","Y":["pl4nted",1]}}`,
		`{"url":"https://x","secret":"pl4nted"}`, `{"url":"https://x","secret":"whsec_pl4nted"}`, `{"url":"https://x","secret":{"pl4nted":1}}`,
		`{"url":"https://x","secret":"whsec_pl4nted"`, `"pl4nted"`, `["pl4nted"]`,
	}
	for _, body := range bad {
		create, update := strings.ReplaceAll(body, "%s", "headers"), strings.ReplaceAll(body, "%s", "addHeaders")
		for _, call := range [][3]string{
			{"POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":` + create + `}`},
			{"POST", webhooksPath(tenant), `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":{"url":"https://x"},"failureHandling":{"alertEndpoint":` + create + `}}`},
			{"PATCH", hooks[0], `{"endpoint":` + update + `}`},
			{"PATCH", hooks[0], `{"failureHandling":{"alertEndpoint":` + update + `}}`},
			{"POST", eventsPath, `{"type":1,"data":` + create + `}`},
		} {
			status, _ := c.do(call[0], call[1], call[2])
			is.Equal(status, 400)
		}
	}
	whole := `{"name":"n","enabled":true,"eventTypes":["*"],"endpoint":` + endpoint("https://receiver.example", plantedSecret) + `}`
	everyCall := [][3]string{
		{"POST", webhooksPath(tenant), whole}, {"PATCH", hooks[0], `{"endpoint":` + strings.Replace(endpoint("https://receiver.example", plantedSecret), "headers", "addHeaders", 1) + `}`},
		{"GET", hooks[0], ""}, {"GET", webhooksPath(tenant) + "/list", ""}, {"PATCH", hooks[0] + "/suspend", ""}, {"PATCH", hooks[0] + "/unsuspend", ""}, {"POST", hooks[0] + "/ping", ""}, {"DELETE", hooks[0], ""},
		{"GET", hooks[0] + "/diverted", ""}, {"GET", hooks[0] + "/diverted/" + ulid.Make().String(), ""}, {"POST", hooks[0] + "/diverted/" + ulid.Make().String() + "/resend", ""},
		{"DELETE", hooks[0] + "/diverted/" + ulid.Make().String(), ""},
		{"GET", hooks[0] + "/diverted?extended=true", ""}, {"GET", hooks[0] + "/diverted/" + ulid.Make().String() + "?extended=true", ""}, {"GET", hooks[0] + "/pending", ""},
		{"POST", hooks[0] + "/diverted/resend?all=true", ""}, {"DELETE", hooks[0] + "/diverted?all=true", ""}, {"POST", hooks[0] + "/divert?all=true", ""},
		{"DELETE", hooks[0] + "/diverted/" + ulid.Make().String() + "/payload", ""}, {"GET", hooks[0] + "/stats", ""}, {"GET", webhooksPath(tenant) + "/stats?hours=1", ""},
	}
	call := func(least int) {
		for _, a := range everyCall {
			status, _ := c.do(a[0], a[1], a[2])
			is.True(status >= least)
		}
	}
	w, err := store.FetchWebhook(t.Context(), diverted.WebhookKey{Tenant: tenant, Webhook: ulid.MustParse(hooks[0][len(hooks[0])-26:])})
	is.NoErr(err)
	is.True(w.Endpoint.Headers.Get("Authorization") == plantedHeader && string(w.Endpoint.Secret) == plantedNext && len(w.Endpoint.OldSecrets) == 1)
	watching.fail = fmt.Errorf("disk: %v %+v %#v %s", w, w.Endpoint, w.Endpoint.Secret, w.FailureHandling.Alert) // as a store may tell what it did
	call(500)
	watching.fail = fmt.Errorf("%w: %v", diverted.ErrLocked, w)
	call(503)
	watching.fail = nil
	for _, v := range []any{plantedSecret, errors.New(plantedHeader), w, &w, []byte(plantedQuery), http.Header{"Authorization": {plantedHeader}}} {
		watching.panic = v
		call(500)
	}
	watching.panic = nil
	panics = "no such token: " + plantedToken
	call(500)
	panics, fails = nil, true
	call(403)
	fails = nil
	for _, hook := range hooks {
		c.do("DELETE", hook, "")
		c.do("DELETE", hook+"?discard=true", "")
	}

	for _, code := range []string{"invalid_body", "malformed_body", "internal", "unavailable", "forbidden", "not_empty", "suspended"} {
		is.True(c.codes[code]) // it was called in every way
	}
	for _, line := range []string{"event diverted", "event dropped", "webhook suspended", "httpapi: panic", "httpapi: request failed"} {
		is.True(strings.Contains(logs.String(), line)) // it was logged
	}
	for _, plant := range []string{plantedHeader, plantedQuery, "pl4nted-key", "pl4nted-more"} {
		is.True(strings.Contains(told.String(), plant)) // it was sent
	}
	clean(t, "the logs", logs.String())
	clean(t, "the answers", c.answers.String())
	clean(t, "what observers are told", seen.String())
}

// What takes longer, in fake time: retries, and notices that are given up, of an echo.
func TestNothingPlantedIsLoggedOfRetriesAndOfNoticesThatAreGivenUp(t *testing.T) {
	logs := captureLogs(t)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := diverted.NewMemoryStore()
		defer store.Close()
		var seen paper
		dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
			Transport: echo{},
			Observer: diverted.Observer{
				Retried: func(a diverted.Attempt) { fmt.Fprintf(&seen, "%+v %+v\n", a, a.Failure) },
				Alerted: func(_ diverted.WebhookKey, n diverted.Notice, err error) { fmt.Fprintf(&seen, "%+v %v\n", n, err) },
			},
		})
		is.NoErr(err)
		e := diverted.Endpoint{
			URL: "https://receiver.example/hook?" + plantedQuery, HMACEnabled: true, Secret: plantedSecret,
			Headers: http.Header{"Authorization": {plantedHeader}},
		}
		w := diverted.NewWebhook(tenant, "orders", e.URL, "*")
		w.Endpoint = e
		handling := diverted.DefaultFailureHandling()
		handling.Alert = &e
		handling.Retry = &diverted.RetryStrategy{Attempts: 2, Interval: time.Second}
		w.FailureHandling = &handling
		_, err = store.CreateWebhook(t.Context(), w)
		is.NoErr(err)

		p := testdata.Payloads()[0]
		event, err := diverted.NewEvent(p.Type, p.Data)
		is.NoErr(err)
		deliverForAnHour(t, dispatcher, event)
		clean(t, "what observers are told", seen.String())
		is.True(strings.Contains(seen.String(), "given up"))
	})
	is.New(t).True(strings.Contains(logs.String(), "notice given up"))
	clean(t, "the logs", logs.String())
}

// deliverForAnHour publishes an event, and has an hour pass in fake time while the dispatcher runs.
func deliverForAnHour(t *testing.T, dispatcher *diverted.Dispatcher, event diverted.Event) {
	t.Helper()
	is := is.New(t)
	ctx, stop := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { is.NoErr(dispatcher.Run(ctx)) })
	_, err := dispatcher.Publish(ctx, tenant, event)
	is.NoErr(err)
	time.Sleep(time.Hour)
	stop()
	run.Wait()
}

// echo answers with all of the request.
type echo struct{}

func (echo) RoundTrip(r *http.Request) (*http.Response, error) {
	dump, err := httputil.DumpRequest(r, true)
	return &http.Response{StatusCode: 500, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(dump))}, err
}

// A receiver that refuses an event says why, and what it quotes is the payload.
func TestWhatAReceiverQuotesIsInNoLog(t *testing.T) {
	logs := captureLogs(t)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		store := diverted.NewMemoryStore()
		defer store.Close()
		dispatcher, err := diverted.NewDispatcher(store, diverted.Config{Transport: quote{}})
		is.NoErr(err)
		w := diverted.NewWebhook(tenant, "orders", "https://receiver.example/hook", "*")
		handling := diverted.DefaultFailureHandling()
		handling.Alert = &diverted.Endpoint{URL: "https://receiver.example/alerts"}
		handling.Retry = &diverted.RetryStrategy{Attempts: 1, Interval: time.Second}
		w.FailureHandling = &handling
		w, err = store.CreateWebhook(t.Context(), w)
		is.NoErr(err)

		event, err := diverted.NewEvent("order.paid", planted)
		is.NoErr(err)
		deliverForAnHour(t, dispatcher, event)
		kept, err := store.FetchDiverted(t.Context(), diverted.Key{Tenant: tenant, Webhook: w.Locator, Event: event.Locator})
		is.NoErr(err)
		is.True(strings.Contains(kept.Failure.Message, planted)) // those who may read the event are told
	})
	for _, line := range []string{"made again", "event diverted", "notice given up", "500 Internal Server Error"} {
		is.New(t).True(strings.Contains(logs.String(), line))
	}
	clean(t, "the logs", logs.String())
}

// quote answers with the body of the request, and of a notice with what it says of the failures.
type quote struct{}

func (quote) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	body = body[max(0, bytes.Index(body, []byte("failureMessage"))):]
	return &http.Response{StatusCode: 500, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}, err
}
