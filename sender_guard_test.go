package diverted

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/guard"
)

// canary is a service inside the network that no stranger's URL may reach. It listens on one port of
// 127.0.0.1 and, where there is one, of ::1, and counts connections and requests.
type canary struct {
	port              string
	status            int // of its answers, 200 if it is 0
	reached, requests atomic.Int64
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	c := new(canary)
	v4, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, c.port, _ = net.SplitHostPort(v4.Addr().String())
	listeners := []net.Listener{v4}
	if v6, err := net.Listen("tcp6", "[::1]:"+c.port); err == nil {
		listeners = append(listeners, v6)
	}
	for _, l := range listeners {
		server := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				c.requests.Add(1)
				w.WriteHeader(max(c.status, http.StatusOK))
			}),
			ConnState: func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					c.reached.Add(1)
				}
			},
		}
		done := make(chan struct{})
		go func() { defer close(done); server.Serve(l) }()
		t.Cleanup(func() { server.Close(); <-done })
	}
	return c
}

// hostileHosts are hosts of URLs that a stranger may register: an address of every range of the IANA
// special-purpose registries, and the spellings by which filters of URLs were passed.
var hostileHosts = strings.Fields(`
	0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 127.0.0.1 127.0.0.2 127.255.255.255 169.254.0.1 169.254.169.254
	169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.192 192.0.2.1 192.31.196.1
	192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1
	255.255.255.255 100.100.100.200 168.63.129.16

	[::] [::1] [0:0:0:0:0:0:0:1] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:0:127.0.0.1] [::ffff:10.0.0.1] [::ffff:169.254.169.254]
	[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::10.0.0.1] [64:ff9b:1::1] [64:ff9b:1::127.0.0.1] [100::1] [100:0:0:1::1] [2001::1]
	[2001:0:7f00:1::] [2001:0:4136:e378:8000:63bf:80ff:fffe] [2001:1::1] [2001:2::1] [2001:3::1] [2001:4:112::1] [2001:10::1] [2001:20::1]
	[2001:30::1] [2001:db8::1] [2002:7f00:1::] [2002:a00:1::] [2002:a9fe:a9fe::] [2620:4f:8000::1] [3fff::1] [5f00::1] [fc00::1] [fd00:ec2::254]
	[fe80::1] [fe80::1%25lo] [::1%25lo] [fec0::1] [ff02::1]

	127.1 127.0.1 0 0177.0.0.1 0177.1 00000177.0.0.1 0x7f.0.0.1 0x7f.1 0x7f000001 0X7F000001 2130706433 017700000001 4294967295
	127.0.0.1. 127.000.000.001 ①②⑦.⓪.⓪.① １２７.０.０.１ 127。0。0。1 %31%32%37.0.0.1
	localhost LOCALHOST localhost. foo.localhost localhost.localdomain ip6-localhost ip6-loopback ⓛⓞⓒⓐⓛⓗⓞⓢⓣ
`)

// resolverOf is the variable that makes this test binary, run again, use one resolver.
const resolverOf = "DIVERTED_TEST_RESOLVER"

// The resolver and the proxies of a process are settled when they are first used. Hence each runs in a
// process of its own.
func TestHostileURLsReachNothingInsideTheNetwork(t *testing.T) {
	if resolver := os.Getenv(resolverOf); resolver != "" {
		testHostileURLs(t)
		return
	}
	proxy := newCanary(t)
	for _, resolver := range []string{"go", "cgo"} {
		t.Run(resolver, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()[:strings.IndexByte(t.Name(), '/')]+"$", "-test.v")
			cmd.Env = append(os.Environ(), resolverOf+"="+resolver, "GODEBUG=netdns="+resolver)
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
				cmd.Env = append(cmd.Env, name+"=http://127.0.0.1:"+proxy.port)
			}
			cmd.Env = append(cmd.Env, "NO_PROXY=", "no_proxy=")
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			is := is.New(t)
			is.NoErr(err)
			is.True(strings.Contains(string(out), "--- PASS: TestHostileURLs"))
			is.Equal(proxy.reached.Load(), int64(0)) // no proxy was asked
		})
	}
}

func testHostileURLs(t *testing.T) {
	is := is.New(t)
	c := newCanary(t)
	var urls []string
	for _, host := range hostileHosts {
		urls = append(urls, "http://"+host+":"+c.port+"/hooks", "https://"+host+":"+c.port)
	}
	is.True(len(hostileHosts) >= 60)
	forEach := func(do func(i int, url string)) {
		var group sync.WaitGroup
		room := make(chan struct{}, 16)
		for i, url := range urls {
			room <- struct{}{}
			group.Go(func() {
				defer func() { <-room }()
				do(i, url)
			})
		}
		group.Wait()
	}
	attempt := func(s *sender) (failures []string) {
		failures = make([]string, len(urls))
		forEach(func(i int, url string) {
			res := s.send(context.Background(), request{endpoint: &Endpoint{URL: url}, id: "x", body: []byte(`{}`)})
			if res.failure != nil {
				failures[i] = res.failure.Message
			}
		})
		return failures
	}

	guarded := newTestSender(t, Config{Timeout: 3 * time.Second, AllowedNetworks: []netip.Prefix{}})
	for i, message := range attempt(guarded) {
		origin := Endpoint{URL: urls[i]}.String()
		if message == "" || !slices.Contains([]string{"address is not allowed, by default only public ones are", "no such host", "the name could not be resolved", "the URL is malformed", "no connection within 3s"},
			strings.TrimPrefix(message, oneLine(origin, maxTextBytes)+": ")) {
			t.Errorf("%s ended with %q", urls[i], message)
		}
	}
	is.Equal(c.reached.Load(), int64(0))

	// The same by a delivery, a ping and an alert.
	var tried atomic.Int64
	forEach(func(_ int, url string) {
		if pingDeliverAndAlert(t, url, Config{Timeout: 3 * time.Second}) != nil {
			tried.Add(1)
		}
	})
	t.Logf("%d of %d URLs can be saved", tried.Load(), len(urls))
	is.True(tried.Load() > 100)
	is.Equal(c.reached.Load(), int64(0))

	// The same URLs do reach it where loopback is allowed: what kept them away was the guard.
	var arrived int
	for i, message := range attempt(newTestSender(t, Config{Timeout: 3 * time.Second})) {
		if message == "" && strings.HasPrefix(urls[i], "http:") {
			arrived++
		}
	}
	want := 6
	if os.Getenv(resolverOf) == "cgo" && cgoResolves() {
		want = 12 // the C library knows more spellings
	}
	t.Logf("%d of %d URLs arrive where loopback is allowed", arrived, len(urls))
	is.True(arrived >= want)
	is.True(c.reached.Load() >= int64(want))
}

// cgoResolves says whether this binary resolves names by the C library.
func cgoResolves() bool {
	_, err := net.DefaultResolver.LookupIPAddr(context.Background(), "127.1")
	return err == nil
}

func TestRedirectsLeadNowhere(t *testing.T) {
	is := is.New(t)
	c := newCanary(t)
	status := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://127.0.0.1:"+c.port+"/")
		w.WriteHeader(status)
	}))
	defer receiver.Close()
	s := newTestSender(t, Config{}) // the canary's address is allowed: only the redirect is in question
	for status = 300; status <= 308; status++ {
		res := s.send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL}, id: "x", body: []byte(`{}`)})
		is.Equal(res.failure.Trigger, Trigger(strconv.Itoa(status)))
		is.True(!strings.Contains(res.failure.Message, c.port))
	}
	is.Equal(c.reached.Load(), int64(0))
}

// A name that has an allowed and a refused address, or changes from one to the other between two
// questions, leads to the allowed one or to none.
func TestTheAddressThatIsDialledIsTheOneThatIsJudged(t *testing.T) {
	const public = "127.0.0.2" // plays an address on the internet
	for _, tt := range []struct {
		name    string
		answers [][]string // to the first question, the second, …, and then from the beginning
		arrives bool
	}{
		{"the allowed address", [][]string{{public}}, true},
		{"the refused address", [][]string{{"127.0.0.1"}}, false},
		{"the allowed address first", [][]string{{public, "127.0.0.1"}}, true},
		{"the refused address first", [][]string{{"127.0.0.1", public}}, true},
		{"the allowed address, later the refused one", [][]string{{public}, {"127.0.0.1"}}, true},
		{"the refused address, later the allowed one", [][]string{{"127.0.0.1"}, {public}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			c := newCanary(t)
			l, err := net.Listen("tcp4", net.JoinHostPort(public, c.port))
			if err != nil {
				t.Skip("this machine has no", public)
			}
			var arrived atomic.Int64
			receiver := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) })}}
			receiver.Start()
			defer receiver.Close()

			s := newTestSender(t, Config{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix(public + "/32")}})
			s.dialer.Resolver = testResolver(t, tt.answers)
			e := &Endpoint{URL: "http://receiver.test:" + c.port}
			for range 6 {
				res := s.send(t.Context(), request{endpoint: e, id: "x", body: []byte(`{}`)})
				if res.failure != nil {
					is.Equal(res.failure.Message, e.URL+": address is not allowed, by default only public ones are")
				}
				s.close() // so that the next attempt asks again
			}
			is.Equal(arrived.Load() > 0, tt.arrives)
			is.Equal(c.reached.Load(), int64(0))
		})
	}
}

// testResolver returns a resolver whose name server gives these answers, in turn.
func testResolver(t *testing.T, answers [][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		asked := 0
		question := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			answer, isA := answerDNS(question[:n], answers[asked%len(answers)])
			if isA {
				asked++
			}
			conn.WriteTo(answer, from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// answerDNS answers a question of type A with these addresses, and one of another type with none
// (RFC 1035, section 4).
func answerDNS(question []byte, addresses []string) (answer []byte, isA bool) {
	end := 12
	for question[end] != 0 {
		end += int(question[end]) + 1
	}
	end += 5 // the root, type and class
	isA = binary.BigEndian.Uint16(question[end-4:]) == 1
	if !isA {
		addresses = nil
	}
	answer = append(answer, question[:2]...)
	answer = append(answer, 0x81, 0x80, 0, 1, 0, byte(len(addresses)), 0, 0, 0, 0)
	answer = append(answer, question[12:end]...)
	for _, a := range addresses {
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name of the question, A, IN, TTL 0
		answer = append(answer, netip.MustParseAddr(a).AsSlice()...)
	}
	return answer, isA
}

func TestADeniedNetworkIsNotReachedThoughItIsAllowed(t *testing.T) {
	is := is.New(t)
	c := newCanary(t)
	s := newTestSender(t, Config{DeniedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	res := s.send(t.Context(), request{endpoint: &Endpoint{URL: "http://127.0.0.1:" + c.port}, id: "x"})
	is.Equal(res.failure.Message, fmt.Sprintf("http://127.0.0.1:%s: address is not allowed, by default only public ones are", c.port))
	is.Equal(c.reached.Load(), int64(0))
}

// pingDeliverAndAlert sends all that can be sent to a URL: a ping, a delivery, and the notice of its failure,
// which it returns. It is nil if no webhook can have the URL.
func pingDeliverAndAlert(t *testing.T, url string, c Config) *Failure {
	t.Helper()
	is := is.New(t)
	store := NewMemoryStore()
	defer store.Close()
	c.Logger = slog.New(slog.DiscardHandler)
	d, err := NewDispatcher(store, c)
	is.NoErr(err)
	w := validWebhook()
	w.Endpoint.URL = url
	w.FailureHandling = &FailureHandling{Divert: true, Alert: &Endpoint{URL: url}}
	w, err = store.CreateWebhook(t.Context(), w)
	if errors.Is(err, ErrInvalid) {
		return nil
	}
	is.NoErr(err)
	ping, err := d.Ping(t.Context(), w.Key())
	is.NoErr(err)
	is.True(!ping.Delivered)
	event, err := NewEvent("order.paid", json.RawMessage(`{"total":7}`))
	is.NoErr(err)
	_, err = d.Send(t.Context(), w.Tenant, w.Locator, event)
	is.NoErr(err)
	is.NoErr(d.Flush(t.Context())) // the delivery, and the notice of its failure
	diverted, err := store.FetchDiverted(t.Context(), Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event.Locator})
	is.NoErr(err)
	return &diverted.Failure
}

// What is sent, for whatever reason, goes through the guard.
func TestDeliveriesPingsAndAlertsAreGuardedAlike(t *testing.T) {
	for _, tt := range []struct {
		name    string
		allowed []netip.Prefix
		want    int64 // requests that reach the canary
	}{
		{"where loopback is refused", nil, 0},
		{"where it is allowed, the same three arrive", loopback, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			c := newCanary(t)
			c.status = http.StatusTeapot
			url := "http://127.0.0.1:" + c.port
			failure := pingDeliverAndAlert(t, url, Config{AllowedNetworks: tt.allowed})
			is.Equal(c.requests.Load(), tt.want)
			is.Equal(failure.Message == url+": address is not allowed, by default only public ones are", tt.want == 0)
		})
	}
}

// Whoever tries the library on one machine would otherwise see nothing for 17 hours.
func TestAWebhookWhoseAddressIsNotAllowedIsLoggedOnce(t *testing.T) {
	is := is.New(t)
	store := NewMemoryStore()
	defer store.Close()
	var log bytes.Buffer
	d, err := NewDispatcher(store, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	is.NoErr(err)
	w, err := store.CreateWebhook(t.Context(), NewWebhook(acme, "local", "http://127.0.0.1:9/hook?token=secret", "*"))
	is.NoErr(err)
	for range 3 {
		event, err := NewEvent("order.paid", json.RawMessage(`{"total":7}`))
		is.NoErr(err)
		_, err = d.Send(t.Context(), w.Tenant, w.Locator, event)
		is.NoErr(err)
	}
	is.NoErr(d.Flush(t.Context()))
	is.Equal(strings.Count(log.String(), "level=WARN"), 1)
	for _, part := range []string{"see=Config.AllowedNetworks", w.Locator.String(), "http://127.0.0.1:9: " + guard.ErrNotAllowed.Error()} {
		is.True(strings.Contains(log.String(), part))
	}
	is.True(!strings.Contains(log.String(), "secret"))
}
