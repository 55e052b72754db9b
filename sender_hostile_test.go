package diverted

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/matryer/is"
)

// serve answers each connection to a port of its own by handle, until the test ends, and returns the
// address. Without handle it does not even read.
func serve(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	over := make(chan struct{})
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			group.Go(func() {
				defer conn.Close()
				if handle == nil {
					<-over
					return
				}
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(over)
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return l.Addr().String()
}

// answering reads one request and then answers by write, over and over until the other side is gone.
func answering(write func(w io.Writer) error) func(net.Conn) {
	return func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if write(conn) != nil {
				return
			}
		}
	}
}

// drip writes begin, and then more every 20 ms without end.
func drip(begin, more string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, begin)
		for tick := time.Tick(20 * time.Millisecond); err == nil; {
			<-tick
			_, err = io.WriteString(w, more)
		}
		return err
	}
}

// flood writes begin, and then more without end.
func flood(begin, more string) func(io.Writer) error {
	chunk := []byte(strings.Repeat(more, 1+8192/len(more)))
	return func(w io.Writer) error {
		_, err := io.WriteString(w, begin)
		for err == nil {
			_, err = w.Write(chunk)
		}
		return err
	}
}

// say writes the text and ends the connection.
func say(text string) func(io.Writer) error {
	b := []byte(text)
	return func(w io.Writer) error {
		w.Write(b)
		return io.EOF
	}
}

func gzipBomb() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 10 {
		z.Write(zeros)
	}
	z.Close()
	return fmt.Sprintf("HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", b.Len(), b.String())
}

const (
	hostileTimeout = time.Second      // of an attempt that nothing else ends
	patientTimeout = 20 * time.Second // of one that ends by what the receiver does, on a busy machine too
	slack          = 20 * time.Second // of a busy machine

	noAnswer  = "no answer within 1s"
	closed    = "connection closed before the answer was complete"
	malformed = "no valid answer: it is malformed, or its headers exceed 64 KiB"
)

// hostileReceivers are what a stranger may run at the end of a URL.
var hostileReceivers = []struct {
	name   string
	handle func(net.Conn)
	// status is what decides; without one, message ends the failure's.
	status  int
	message string
	// large: the message is.
	large bool
}{
	{name: "never answers", handle: func(c net.Conn) { io.Copy(io.Discard, c) }, message: noAnswer},
	{name: "never reads", message: noAnswer, large: true},
	{name: "drips a status line", handle: answering(drip("HTTP/1.1 200 O", "O")), message: noAnswer},
	{name: "drips headers", handle: answering(drip("HTTP/1.1 200 OK\r\n", "X-A: b\r\n")), message: noAnswer},
	{name: "drips one header", handle: answering(drip("HTTP/1.1 200 OK\r\nX-A: ", "b")), message: noAnswer},
	{name: "drips a body", handle: answering(drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "b")), status: 200},
	{name: "drips the body of a failure", handle: answering(drip("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nb\r\n")), status: 503},
	{name: "sends a body without end", handle: answering(flood("HTTP/1.1 200 OK\r\n\r\n", "body")), status: 200},
	{name: "sends a chunked body without end", handle: answering(flood("HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n")), status: 500},
	{name: "sends a chunk header without end", handle: answering(flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0")), status: 200},
	{name: "sends trailers without end", handle: answering(flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X-A: b\r\n")), status: 200},
	{name: "sends 10 MiB of headers", handle: answering(say("HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 10<<20/8) + "\r\n")), message: malformed},
	{name: "sends a header of 10 MiB", handle: answering(say("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("b", 10<<20) + "\r\n\r\n")), message: malformed},
	{name: "sends headers without end", handle: answering(flood("HTTP/1.1 200 OK\r\n", "X-A: b\r\n")), message: malformed},
	{name: "sends a status line without end", handle: answering(flood("HTTP/1.1 200 O", "O")), message: malformed},
	{name: "sends 1xx without end", handle: answering(flood("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")), message: malformed},
	{name: "drips 1xx without end", handle: answering(drip("", "HTTP/1.1 102 Processing\r\n\r\n")), message: noAnswer},
	{name: "sends a gzip bomb", handle: answering(say(gzipBomb())), status: 500},
	{name: "redirects to itself", handle: answering(say("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")), status: 302},
	{name: "ends its body by closing", handle: answering(say("HTTP/1.0 500 No\r\n\r\nbody")), status: 500},
	{name: "closes in the middle of the body", handle: answering(say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbody")), status: 200},
	{name: "closes in the middle of the headers", handle: answering(say("HTTP/1.1 200 OK\r\nContent-Le")), message: closed + "|malformed answer"},
	{name: "refuses a large message before it has read it", handle: func(c net.Conn) {
		greet("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")(c)
		io.Copy(io.Discard, c)
	}, status: 413, large: true},
	{name: "closes without an answer", handle: answering(say("")), message: closed},
	{name: "closes at once", handle: func(net.Conn) {}, message: "connection reset|" + closed},
	{name: "resets", handle: func(c net.Conn) { bufio.NewReader(c).Peek(1); c.(*net.TCPConn).SetLinger(0) }, message: "connection reset|" + closed},
	{name: "sends a malformed status line", handle: answering(say("HTTP/1.1 abc OK\r\n\r\n")), message: malformed},
	{name: "sends no HTTP at all", handle: answering(say("220 smtp.example.com ESMTP\r\n")), message: malformed},
	{name: "sends a malformed header", handle: answering(say("HTTP/1.1 200 OK\r\nX A\r\n\r\n")), message: "malformed answer"},
	{name: "sends two lengths", handle: answering(say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")), message: malformed},
	{name: "sends a status below all classes", handle: answering(say("HTTP/1.1 099 OK\r\n\r\n")), message: "99 is no status of a final answer"},
	{name: "sends a status above all classes", handle: answering(say("HTTP/1.1 999 OK\r\n\r\n")), message: "999 is no status of a final answer"},
	{name: "switches protocols", handle: answering(drip("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "x")), message: "101 is no status of a final answer"},
	{name: "speaks HTTP/2 unasked", handle: answering(say("\x00\x00\x00\x04\x00\x00\x00\x00\x00")), message: malformed},
}

func TestHostileReceiversEndAsTheStatusOrTheTimeoutSays(t *testing.T) {
	hasty, patient := newTestSender(t, Config{Timeout: hostileTimeout}), newTestSender(t, Config{Timeout: patientTimeout})
	body := []byte(testdata.Payloads()[0].Data)
	for _, tt := range hostileReceivers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			e := &Endpoint{URL: "http://" + serve(t, tt.handle) + "/hooks?key=hush"}
			s, timeout := patient, patientTimeout
			if tt.message == noAnswer {
				s, timeout = hasty, hostileTimeout
			}
			began := time.Now()
			body := body
			if tt.large {
				body = bytes.Repeat([]byte("0"), 8<<20) // more than the buffers of two sockets take
			}
			res := s.send(t.Context(), request{endpoint: e, id: "x", body: body})
			took := time.Since(began)
			is.True(took < timeout+excerptTimeout+slack)
			is.True(res.duration < timeout+slack)
			is.True(!res.aborted)
			if tt.status != 0 {
				is.Equal(res.status, tt.status)
				is.Equal(res.failure == nil, tt.status == 200)
			} else {
				is.True(res.failure != nil)
				is.Equal(res.failure.Trigger, TriggerTimeout)
				if !endsInOneOf(res.failure.Message, tt.message) {
					t.Error(res.failure.Message)
				}
			}
			if f := res.failure; f != nil {
				is.True(len(f.Message) <= 1<<10 && len(f.Excerpt) <= 1<<10)
				is.True(!strings.Contains(f.Message+f.Excerpt, "hush"))
			}
		})
	}
}

// endsInOneOf says whether s ends in one of the alternatives, which are separated by bars.
func endsInOneOf(s, alternatives string) bool {
	for a := range strings.SplitSeq(alternatives, "|") {
		if strings.HasSuffix(s, a) {
			return true
		}
	}
	return false
}

func TestHostileReceiversCostLittleMemory(t *testing.T) {
	const attempts = 4
	for _, name := range []string{
		"sends a body without end", "sends a chunked body without end", "sends 10 MiB of headers", "sends a header of 10 MiB",
		"sends headers without end", "sends 1xx without end", "sends a gzip bomb", "sends trailers without end", "sends a status line without end",
	} {
		for _, tt := range hostileReceivers {
			if tt.name != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				is := is.New(t)
				s := newTestSender(t, Config{Timeout: time.Second})
				e := &Endpoint{URL: "http://" + serve(t, tt.handle)}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for range attempts {
					s.send(t.Context(), request{endpoint: e, id: "x", body: []byte(`{}`)})
				}
				runtime.ReadMemStats(&after)
				each := (after.TotalAlloc - before.TotalAlloc) / attempts // the receiver's included
				t.Logf("%d KiB an attempt", each>>10)
				is.True(each < 2<<20) // of 10 MiB and more that are sent
			})
		}
	}
}

func TestHostileTLS(t *testing.T) {
	never := func(config *tls.Config) func(net.Conn) { // serves TLS and never answers
		return func(conn net.Conn) {
			c := tls.Server(conn, config)
			io.Copy(io.Discard, c)
		}
	}
	certificate := httptest.NewTLSServer(nil)
	t.Cleanup(certificate.Close)
	config := func(change func(*tls.Config)) *tls.Config {
		c := &tls.Config{Certificates: certificate.TLS.Certificates}
		change(c)
		return c
	}
	cases := []struct {
		name     string
		handle   func(net.Conn)
		insecure bool
		message  string
	}{
		{"a certificate that nobody knows", never(config(func(*tls.Config) {})), false, "TLS: the certificate is signed by an unknown authority"},
		{"a certificate that nobody verifies", never(config(func(*tls.Config) {})), true, noAnswer},
		{"TLS 1.1", never(config(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })), true, "TLS: refused by the receiver|TLS: the handshake failed"},
		{"no TLS at all", greet("HTTP/1.1 400 Bad Request\r\n\r\n"), true, "TLS: the receiver does not speak TLS"},
		{"a handshake that never ends", func(c net.Conn) { io.Copy(io.Discard, c) }, true, "no connection within 1s|TLS: no handshake in time"},
		{"a handshake that is cut off", func(c net.Conn) { bufio.NewReader(c).Peek(1) }, true, "TLS: the handshake failed"},
		{"a client certificate is asked for", never(config(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })), true, "TLS: refused by the receiver"},
		{"HTTP/2 alone", never(config(func(c *tls.Config) { c.NextProtos = []string{"h2"} })), true, noAnswer}, // Go's server lets HTTP/1.1 pass
		{"HTTP/2 that stalls", never(config(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} })), true, noAnswer},
	}
	counted := fmt.Sprintf("| hostile receivers | %d of them,", len(hostileReceivers)+len(cases))
	if doc, err := os.ReadFile("docs/reliability.md"); err != nil || !strings.Contains(string(doc), counted) {
		t.Errorf("docs/reliability.md does not say %q: %v", counted, err)
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			s := newTestSender(t, Config{Timeout: hostileTimeout, AllowInsecureTLS: true})
			e := &Endpoint{URL: "https://" + serve(t, tt.handle), InsecureTLS: tt.insecure}
			began := time.Now()
			res := s.send(t.Context(), request{endpoint: e, id: "x", body: []byte(`{}`)})
			is.True(time.Since(began) < hostileTimeout+slack)
			is.Equal(res.failure.Trigger, TriggerTimeout)
			if !endsInOneOf(res.failure.Message, tt.message) {
				t.Error(res.failure.Message)
			}
		})
	}
}

// greet writes the text when the first byte comes.
func greet(text string) func(net.Conn) {
	return func(c net.Conn) {
		bufio.NewReader(c).Peek(1)
		io.WriteString(c, text)
	}
}

func TestTheHostIsNamedInNoOtherWayThanByItsOrigin(t *testing.T) {
	is := is.New(t)
	s := newTestSender(t, Config{Timeout: time.Second})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	address := l.Addr().String()
	l.Close()
	for url, want := range map[string]string{
		"http://" + address + "/path?key=hush": "http://" + address + ": connection refused",
		"http://name.invalid/path?key=hush":    "http://name.invalid: no such host|http://name.invalid: the name could not be resolved|http://name.invalid: no connection within 1s",
		"http://%zz/path?key=hush":             "(malformed URL): the URL is malformed",
		"gopher://" + address + "/?key=hush":   "gopher://" + address + ": the URL is malformed",
	} {
		res := s.send(t.Context(), request{endpoint: &Endpoint{URL: url}, id: "x", body: []byte(`{}`)})
		is.Equal(res.failure.Trigger, TriggerTimeout)
		if !endsInOneOf(res.failure.Message, want) {
			t.Errorf("%s: %s", url, res.failure.Message)
		}
	}
}

func TestOneHostileReceiverHoldsNoOther(t *testing.T) {
	is := is.New(t)
	s := newTestSender(t, Config{Timeout: time.Minute})
	stalls := &Endpoint{URL: "http://" + serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })}
	var delivered atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { delivered.Add(1) }))
	defer receiver.Close()

	stalling, done := context.WithCancel(t.Context())
	defer done()
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() { s.send(stalling, request{endpoint: stalls, id: "x", body: []byte(`{}`)}) })
	}
	began := time.Now()
	for range 50 {
		res := s.send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL}, id: "x", body: []byte(`{}`)})
		is.True(res.failure == nil)
	}
	is.True(time.Since(began) < time.Minute) // before the first of the others ended
	is.Equal(delivered.Load(), int64(50))
	done()
	group.Wait()
}
