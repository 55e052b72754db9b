package diverted

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// connections counts those that a server accepts.
func connections(s *httptest.Server) *atomic.Int64 {
	n := new(atomic.Int64)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
	return n
}

func TestAConnectionIsUsedAgainAfterAnAnswerThatWasReadToItsEnd(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   int
		want   int64 // connections for five attempts
	}{
		{"no body", 204, 0, 1},
		{"a small body", 200, 100, 1},
		{"a failure with a body", 503, 16<<10 - 1, 1},
		{"more than is read", 200, 1 << 20, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.WriteHeader(tt.status)
				io.WriteString(w, strings.Repeat("x", tt.body))
			}))
			accepted := connections(receiver)
			receiver.Start()
			defer receiver.Close()
			s := newTestSender(t, Config{})
			for range 5 {
				res := s.send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL}, id: "x", body: []byte(`{}`)})
				is.Equal(res.status, tt.status)
			}
			is.Equal(accepted.Load(), tt.want)
		})
	}
}

// seen counts requests by their webhook-id.
type seen struct {
	mu sync.Mutex
	n  map[string]int
}

func (s *seen) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == nil {
		s.n = map[string]int{}
	}
	s.n[id]++
}

// dyingConn takes one write, and of the next this many bytes.
type dyingConn struct {
	net.Conn
	writes, written int
}

func (c *dyingConn) Write(b []byte) (int, error) {
	if c.writes++; c.writes == 1 {
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:c.written])
	return n, syscall.EPIPE
}

// counts returns a copy.
func (s *seen) counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.n)
}

func TestNothingIsSentTwice(t *testing.T) {
	t.Run("when a connection that was kept dies after the request was read", func(t *testing.T) {
		is := is.New(t)
		var requests seen
		address := serve(t, func(conn net.Conn) {
			r := bufio.NewReader(conn)
			for n := 0; ; n++ {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				io.Copy(io.Discard, req.Body)
				requests.add(req.Header.Get("webhook-id"))
				if n > 0 {
					return // dies on the second request of each connection
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		s := newTestSender(t, Config{})
		// With this header Go's client would send again what it has sent already; endpoints cannot have it, and
		// if a store hands out one that has, it is left out.
		e := &Endpoint{URL: "http://" + address, Headers: http.Header{"Idempotency-Key": {"x"}, "x-idempotency-key": {"x"}}}
		is.True(s.send(t.Context(), request{endpoint: e, id: "first", body: []byte(`{}`)}).failure == nil)
		res := s.send(t.Context(), request{endpoint: e, id: "second", body: []byte(`{}`)})
		is.Equal(res.failure.Trigger, TriggerTimeout)
		is.True(endsInOneOf(res.failure.Message, closed+"|connection reset"))
		is.Equal(requests.counts(), map[string]int{"first": 1, "second": 1})
	})

	// A connection that was kept turns out to be dead at the second request, before or after some of it is written.
	for _, tt := range []struct {
		name    string
		written int
		want    map[string]int // what the receiver sees
		fails   bool
	}{
		{"when nothing was written to a connection that had died, another one is used", 0, map[string]int{"first": 1, "second": 1}, false},
		{"when something was written to it, the attempt fails", 20, map[string]int{"first": 1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			var requests seen
			receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				requests.add(r.Header.Get("webhook-id"))
			}))
			defer receiver.Close()
			s := newTestSender(t, Config{})
			dial := s.verified.(*http.Transport).DialContext
			s.verified.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				if err == nil {
					c := conn.(*connection)
					c.Conn = &dyingConn{Conn: c.Conn, written: tt.written}
				}
				return conn, err
			}
			e := &Endpoint{URL: receiver.URL}
			is.True(s.send(t.Context(), request{endpoint: e, id: "first", body: []byte(`{}`)}).failure == nil)
			res := s.send(t.Context(), request{endpoint: e, id: "second", body: []byte(`{}`)})
			is.Equal(res.failure != nil, tt.fails)
			if tt.fails {
				is.Equal(res.failure.Message, e.URL+": connection reset")
			}
			is.Equal(requests.counts(), tt.want)
		})
	}

	t.Run("when receivers close connections at any moment", func(t *testing.T) {
		is := is.New(t)
		var requests seen
		address := serve(t, func(conn net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			requests.add(req.Header.Get("webhook-id"))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") // and the end, unannounced
		})
		s := newTestSender(t, Config{})
		var delivered atomic.Int64
		var group sync.WaitGroup
		for worker := range 4 {
			group.Go(func() {
				for i := range 100 {
					id := string(rune('a'+worker)) + string(rune('0'+i))
					if res := s.send(t.Context(), request{endpoint: &Endpoint{URL: "http://" + address}, id: id, body: []byte(`{}`)}); res.failure == nil {
						delivered.Add(1)
					}
				}
			})
		}
		group.Wait()
		is.True(delivered.Load() > 0)
		for id, n := range requests.counts() {
			if n > 1 {
				t.Errorf("%q was received %d times", id, n)
			}
		}
	})
}

func TestWhatAReceiverSendsUnaskedReachesNeitherLogNorNextAttempt(t *testing.T) {
	const unasked = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 7\r\n\r\npl4nted"
	for _, tt := range []struct {
		name    string
		answer  string
		later   bool // in a packet of its own
		excerpt string
	}{
		{"behind a header section", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false, ""},
		{"behind a header section whose lines end in LF", "HTTP/1.1 404 Not Found\nContent-Length: 0\n\n", false, ""},
		{"in place of a body that cannot be", "HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n", false, ""},
		{"behind a body of known length", "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", false, "gone"},
		{"behind a body of two lines", "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot\nhere\n", false, `not\nhere\n`},
		{"behind a chunked body", "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnot\r\n5;x=y\r\n here\r\n0\r\nX-Trailer: 1\r\n\r\n", false, "not here"},
		{"behind interim answers", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", false, "gone"},
		{"later", "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone", true, "gone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			logged := captureLog(t)
			answered, over := make(chan struct{}), make(chan struct{}, 2)
			address := serve(t, func(conn net.Conn) {
				r := bufio.NewReader(conn)
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				io.Copy(io.Discard, req.Body)
				if tt.later {
					io.WriteString(conn, tt.answer)
					<-answered
					io.WriteString(conn, unasked)
				} else {
					io.WriteString(conn, tt.answer+unasked)
				}
				_, err = r.ReadByte()
				if err == nil {
					t.Error("the connection is used again")
				}
				over <- struct{}{}
			})
			s := newTestSender(t, Config{})
			for range 2 {
				res := s.send(t.Context(), request{endpoint: &Endpoint{URL: "http://" + address}, id: "x", body: []byte(`{}`)})
				is.True(res.status == 404 || res.status == 304)
				is.Equal(res.failure.Excerpt, tt.excerpt)
				if tt.later {
					answered <- struct{}{}
				}
				<-over // closed by the sender, as soon as it saw what was not asked for
			}
			is.Equal(logged(), "")
		})
	}

	t.Run("before anything was asked", func(t *testing.T) {
		is := is.New(t)
		logged := captureLog(t)
		address := serve(t, func(conn net.Conn) {
			io.WriteString(conn, "220 pl4nted ESMTP\r\n")
			io.Copy(io.Discard, conn)
		})
		s := newTestSender(t, Config{})
		for range 20 { // the one or the other may come first
			res := s.send(t.Context(), request{endpoint: &Endpoint{URL: "http://" + address}, id: "x", body: []byte(`{}`)})
			is.Equal(res.failure.Trigger, TriggerTimeout)
			is.True(!strings.Contains(res.failure.Message, "pl4nted"))
		}
		is.Equal(logged(), "")
	})
}

// captureLog keeps what is written to the global log while the test runs, and returns what there is of it.
func captureLog(t testing.TB) func() string {
	t.Helper()
	var mu sync.Mutex
	var b strings.Builder
	before := log.Writer()
	log.SetOutput(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	}))
	t.Cleanup(func() { log.SetOutput(before) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func([]byte) (int, error)

func (f writer) Write(p []byte) (int, error) { return f(p) }

func TestAnEndpointWithoutVerificationSharesNoConnection(t *testing.T) {
	is := is.New(t)
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	accepted := connections(receiver)
	receiver.StartTLS()
	receiver.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer receiver.Close()
	s := newTestSender(t, Config{AllowInsecureTLS: true})
	verified, insecure := &Endpoint{URL: receiver.URL}, &Endpoint{URL: receiver.URL, InsecureTLS: true}
	for range 3 {
		res := s.send(t.Context(), request{endpoint: insecure, id: "x"})
		is.True(res.failure == nil)
		res = s.send(t.Context(), request{endpoint: verified, id: "x"})
		is.Equal(res.failure.Message, receiver.URL+": TLS: the certificate is signed by an unknown authority")
	}
	is.Equal(accepted.Load(), int64(1+3)) // the unverified one is used again, but by its own kind alone
}

func TestAnEndpointWithoutVerificationIsRefusedUnlessTheOperatorAllowsIt(t *testing.T) {
	is := is.New(t)
	c := newCanary(t)
	for _, scheme := range []string{"http", "https"} {
		e := &Endpoint{URL: scheme + "://127.0.0.1:" + c.port, InsecureTLS: true}
		res := newTestSender(t, Config{}).send(t.Context(), request{endpoint: e, id: "x"})
		is.Equal(res.failure.Message, e.URL+": the endpoint asks for TLS without verification, which this dispatcher does not allow")
	}
	is.Equal(c.reached.Load(), int64(0))
}

func TestTLSIsOfVersion12AtLeast(t *testing.T) {
	is := is.New(t)
	for _, rt := range []http.RoundTripper{newTestSender(t, Config{}).verified, newTestSender(t, Config{}).insecure} {
		is.True(rt.(*http.Transport).Proxy == nil)
	}
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		receiver.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		receiver.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		receiver.StartTLS()
		res := newTestSender(t, Config{AllowInsecureTLS: true}).send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL, InsecureTLS: true}, id: "x"})
		is.Equal(res.failure == nil, want)
		receiver.Close()
	}
}

// roundTripper is a transport of the host's.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestATransportOfTheHostsReplacesTheClient(t *testing.T) {
	answer := func(status int, body io.ReadCloser) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"120"}}, Body: body}, nil
	}
	for _, tt := range []struct {
		name       string
		transport  roundTripper
		status     int
		message    string
		retryAfter time.Duration
		took       time.Duration
	}{
		{name: "it answers, without a body", transport: func(*http.Request) (*http.Response, error) { return answer(200, nil) }, status: 200},
		{name: "no address is guarded", transport: func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "10.0.0.1" {
				return nil, errors.New("another host")
			}
			return answer(204, http.NoBody)
		}, status: 204},
		{
			name: "Retry-After of a failure", status: 429, message: "429 Too Many Requests: slow down", retryAfter: 2 * time.Minute,
			transport: func(*http.Request) (*http.Response, error) {
				return answer(429, io.NopCloser(strings.NewReader("slow down")))
			},
		},
		{name: "it fails", transport: func(*http.Request) (*http.Response, error) { return nil, errors.New("hush") }, message: "http://10.0.0.1: the configured transport failed"},
		{name: "it returns nothing", transport: func(*http.Request) (*http.Response, error) { return nil, nil }, message: "http://10.0.0.1: the configured transport failed"},
		{name: "it panics", transport: func(*http.Request) (*http.Response, error) { panic("hush") }, message: "http://10.0.0.1: the configured transport failed"},
		{name: "it reads the request and never answers", took: DefaultTimeout, message: "http://10.0.0.1: no answer within 15s", transport: func(r *http.Request) (*http.Response, error) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return nil, r.Context().Err()
		}},
		{name: "its body takes its time, which is not counted", status: 500, message: "500 Internal Server Error: begun", transport: func(r *http.Request) (*http.Response, error) {
			return answer(500, io.NopCloser(io.MultiReader(strings.NewReader("begun"), stalling{r})))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				var logged strings.Builder
				s := newSender(Config{Transport: tt.transport, Logger: slog.New(slog.NewTextHandler(&logged, nil))}.WithDefaults())
				defer s.close()
				began := time.Now()
				res := s.send(t.Context(), request{endpoint: &Endpoint{URL: "http://10.0.0.1"}, id: "x", body: []byte(`{}`)})
				is.Equal(res.status, tt.status)
				is.Equal(res.retryAfter, tt.retryAfter)
				is.Equal(res.duration, tt.took)
				is.Equal(res.began, began)
				is.True(!strings.Contains(logged.String(), "hush"))
				if tt.message == "" {
					is.True(res.failure == nil)
					return
				}
				is.Equal(res.failure.Message, tt.message)
				is.Equal(res.failure.At, began.Add(tt.took))
				is.True(time.Since(began) <= tt.took+excerptTimeout)
			})
		})
	}
}

// stalling is a body that comes to nothing until the request's context ends.
type stalling struct{ r *http.Request }

func (s stalling) Read([]byte) (int, error) {
	<-s.r.Context().Done()
	return 0, s.r.Context().Err()
}

func TestAMessageThatCannotBeSignedIsNotSent(t *testing.T) {
	is := is.New(t)
	s := newSender(Config{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("sent")
		return nil, nil
	})}.WithDefaults())
	res := s.send(t.Context(), request{endpoint: &Endpoint{URL: "https://example.com", HMACEnabled: true, Secret: "whsec_hush"}, id: "x"})
	is.Equal(res.failure.Message, "https://example.com: the endpoint's secret is missing or malformed, so the message cannot be signed")
}

func TestAnEchoIsKeptWithoutWhatTheReceiverWasToldInConfidence(t *testing.T) {
	is := is.New(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		r.Write(w) // all of the request: line, headers and body
		io.WriteString(w, strings.Repeat("x", 2000))
	}))
	defer receiver.Close()
	e := plantedWebhook().Endpoint
	e.URL, e.InsecureTLS = receiver.URL+"/hooks/pl4nted?key=pl4nted", false
	res := newTestSender(t, Config{}).send(t.Context(), request{endpoint: &e, id: "x", body: []byte(`{"type":"order.paid"}`)})
	is.Equal(res.failure.Trigger, Trigger("400"))
	is.True(strings.HasPrefix(res.failure.Message, `400 Bad Request: POST ***?*** HTTP/1.1\r\n`))
	is.True(strings.Contains(res.failure.Excerpt, `Authorization: ***\r\n`))
	is.True(strings.HasSuffix(res.failure.Excerpt, "x…"))
	is.True(!strings.Contains(res.failure.Message+res.failure.Excerpt, planted))
}

func BenchmarkSend(b *testing.B) {
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer receiver.Close()
	answer := &http.Response{StatusCode: 200, Body: http.NoBody}
	for name, c := range map[string]Config{
		"loopback":  {},
		"transport": {Transport: roundTripper(func(*http.Request) (*http.Response, error) { return answer, nil })}, // what we add to it
	} {
		b.Run(name, func(b *testing.B) {
			s := newTestSender(b, c)
			r := request{
				endpoint: &Endpoint{URL: receiver.URL, HMACEnabled: true, Secret: GenerateSecret(), Headers: http.Header{"X-Tenant": {"7"}}},
				id:       "01JZQ8X4W3M9V6T5R2P1N0KHGF",
				body:     make([]byte, 8<<10),
			}
			b.ReportAllocs()
			for b.Loop() {
				if res := s.send(b.Context(), r); res.failure != nil {
					b.Fatal(res.failure.Message)
				}
			}
		})
	}
}
