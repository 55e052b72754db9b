package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
)

const (
	hostileTimeout = 3 * time.Second  // of an attempt; no delivery beside it takes as long, on a busy machine neither
	slack          = 20 * time.Second // that an attempt may take beyond it
)

// receiver answers one connection.
type receiver func(conn net.Conn)

// after reads the request, and answers by write.
func after(write func(w io.Writer) error) receiver {
	return func(conn net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.Copy(io.Discard, r.Body)
			write(conn)
		}
	}
}

// say is an answer, and then the end of the connection.
func say(text string) receiver {
	return after(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
}

// on is an answer that begins by begin, and goes on by more without end, every so often.
func on(begin, more string, every time.Duration) receiver {
	return after(func(w io.Writer) error {
		_, err := io.WriteString(w, begin)
		for tick := time.Tick(every); err == nil; {
			if tick != nil { // nil: not every so often, but at once
				<-tick
			}
			_, err = io.WriteString(w, more)
		}
		return err
	})
}

func gzipBomb() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, 64<<20))
	z.Close()
	return fmt.Sprintf("HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", b.Len(), b.String())
}

// hostile are what a customer may run at the end of a URL, with the trigger of the failure that it comes
// to, or "" where the status is a success.
var hostile = []struct {
	name     string
	receiver receiver
	trigger  string
}{
	{"never answers", func(c net.Conn) { io.Copy(io.Discard, c) }, "timeout"},
	{"drips headers", on("HTTP/1.1 200 OK\r\n", "X-A: b\r\n", 50*time.Millisecond), "timeout"},
	{"drips a body", on("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "b", 50*time.Millisecond), ""},
	{"drips the body of a failure", on("HTTP/1.1 503 No\r\nContent-Length: 100000\r\n\r\n", "b", 50*time.Millisecond), "503"},
	{"a body without end", on("HTTP/1.1 500 No\r\n\r\n", strings.Repeat("body", 16<<10), 0), "500"},
	{"10 MiB of headers", say("HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: b\r\n", 10<<20/8) + "\r\n"), "timeout"},
	{"1xx without end", on("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0), "timeout"},
	{"a gzip bomb", say(gzipBomb()), "500"},
	{"a redirect loop", say("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), "302"},
	{"closes in the middle of the body", say("HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nbody"), "500"},
	{"closes in the middle of the headers", say("HTTP/1.1 200 OK\r\nContent-Le"), "timeout"},
	{"resets", func(c net.Conn) { bufio.NewReader(c).Peek(1); c.(*net.TCPConn).SetLinger(0) }, "timeout"},
	{"a malformed status line", say("HTTP/1.1 abc OK\r\n\r\n"), "timeout"},
	{"TLS that fails", say("no TLS"), "timeout"},
	{"HTTP/2 that stalls", func(c net.Conn) {
		io.WriteString(c, "\x00\x00\x00\x04\x00\x00\x00\x00\x00") // SETTINGS, and then nothing
		io.Copy(io.Discard, c)
	}, "timeout"},
}

// listen runs a receiver until the test ends, and returns its address.
func (r receiver) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.Map
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Store(conn, true)
			group.Go(func() {
				defer conn.Close()
				r(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
		group.Wait()
	})
	return l.Addr().String()
}

// ask calls the API and decodes the answer into v, if there is any.
func ask(t *testing.T, method, url, body string, v any) (status int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if v != nil {
		if err := json.NewDecoder(res.Body).Decode(v); err != nil {
			t.Fatal(err)
		}
	}
	return res.StatusCode
}

// memory returns the greatest resident size that a process has had, in bytes; 0 where that is not to be
// known.
func memory(t *testing.T, pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	kB, err := strconv.Atoi(strings.Fields(line)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kB << 10
}

// The server in a process of its own, a receiver of every hostile kind, and one that is good.
func TestHostileReceiversHoldUpNothingButThemselves(t *testing.T) {
	is := is.New(t)
	url, server := serve(t, t.TempDir(), "-addr", "127.0.0.1:0", "-db", "webhooks.db", "-open", "-allow", "127.0.0.0/8", "-timeout", hostileTimeout.String())
	defer http.DefaultClient.CloseIdleConnections()
	api := url + "/event/7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11"
	register := func(name, url, types string) string {
		t.Helper()
		var w struct{ Locator string }
		is.Equal(ask(t, "POST", api+"/webhooks", fmt.Sprintf(`{"name": %q, "enabled": true, "eventTypes": [%q], "endpoint": {"url": %q}, "failureHandling": {"divert": true}}`, name, types, url), &w), 200)
		return api + "/webhooks/" + w.Locator
	}
	publish := func(eventType string) (locator string) {
		t.Helper()
		var e struct{ Locator string }
		is.Equal(ask(t, "POST", api+"/events", fmt.Sprintf(`{"type": %q, "data": {"id": "o-1234"}}`, eventType), &e), 202)
		return e.Locator
	}

	arrived := make(chan string, 1)
	good := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Header.Get("webhook-id") })}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	go good.Serve(l)
	defer good.Close()
	register("good", "http://"+l.Addr().String(), "order.paid")
	deliver := func() (took time.Duration) {
		began := time.Now()
		locator := publish("order.paid")
		select {
		case got := <-arrived:
			is.Equal(got, locator)
		case <-time.After(hostileTimeout + slack):
			t.Fatal("the good receiver waits")
		}
		return time.Since(began)
	}
	for range 20 {
		deliver()
	}
	before := memory(t, server.Process.Pid)

	hooks := make([]string, len(hostile))
	for i, h := range hostile {
		scheme := "http://"
		if strings.HasPrefix(h.name, "TLS") {
			scheme = "https://"
		}
		hooks[i] = register(h.name, scheme+h.receiver.listen(t), "hostile")
	}
	const each = 4 // events for each of them
	began := time.Now()
	for range each {
		publish("hostile")
	}
	deadline := time.Since(began) + hostileTimeout + slack // of the last

	// Meanwhile the good one gets what is its own, and the hostile ones' attempts end.
	open := make(map[int]bool)
	for i := range hostile {
		open[i] = true
	}
	slowest, delivered := time.Duration(0), 0
	for len(open) > 0 {
		slowest = max(slowest, deliver())
		delivered++
		over := time.Since(began) > deadline
		for i := range open {
			h := hostile[i]
			var events []struct{ FailureTrigger, FailureMessage string }
			is.Equal(ask(t, "GET", hooks[i]+"/diverted", "", &events), 200)
			want := each
			if h.trigger == "" {
				want = 0
			}
			for _, e := range events {
				if e.FailureTrigger != h.trigger {
					t.Errorf("%s: %s, %s, not %q", h.name, e.FailureTrigger, e.FailureMessage, h.trigger)
				}
			}
			switch {
			case len(events) == want && (want > 0 || ask(t, "DELETE", hooks[i], "", nil) == 204): // nothing is pending
				delete(open, i)
			case over:
				t.Errorf("%s: of %d events %d have failed after %s", h.name, each, len(events), time.Since(began))
				delete(open, i)
			}
		}
	}
	t.Logf("all attempts were over after %s; %d deliveries meanwhile, the slowest took %s", time.Since(began), delivered, slowest)
	is.True(delivered >= 5)
	is.True(slowest < hostileTimeout) // none of them waited for an attempt of another
	if after := memory(t, server.Process.Pid); after > 0 {
		t.Logf("memory: %d MiB before, %d MiB at most", before>>20, after>>20)
		is.True(after < 2*before+32<<20) // of some gigabytes that were on offer
	}
}
