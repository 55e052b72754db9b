package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
)

// lists lists and fetches of a million diverted events of one webhook, by the routes, from another process.
func lists(p *probe) error {
	o, err := openOurs(p, diverted.Observer{})
	if err != nil {
		return err
	}
	defer o.store.Close()
	if err := o.addWebhooks(p.ctx, 1, "https://example.com/hook", nil); err != nil {
		return err
	}
	n := p.count(1_000_000)
	all := events(n)
	failure := diverted.Failure{Trigger: "503", Message: "503 Service Unavailable: the database is down", Status: 503, Excerpt: "the database is down"}
	if err := each(256, n, func(i int) error {
		body, err := all[i].Encode()
		if err != nil {
			return err
		}
		return o.store.Divert(p.ctx, diverted.DivertedEvent{
			Key:            diverted.Key{Tenant: o.tenant, Webhook: o.webhooks[0].Locator, Event: all[i].Locator},
			RequestLocator: all[i].RequestLocator, EventType: all[i].Type, Failure: failure, Attempts: 11, Body: body,
		})
	}); err != nil {
		return err
	}
	var bare barePage
	api, err := serveAPI(o.store, &bare)
	if err != nil {
		return err
	}
	defer api.close()

	// Events ascend by locator as they were made.
	key := func(i int) diverted.Key {
		return diverted.Key{Tenant: o.tenant, Webhook: o.webhooks[0].Locator, Event: all[i].Locator}
	}
	list := strings.TrimSuffix(divertedPath(key(0)), "/"+all[0].Locator.String())
	top := list + "?count=100"
	deep := top + "&after=" + all[n-101].Locator.String()
	var pages []string
	for range p.count(2_000) {
		pages = append(pages, top, deep)
	}
	load, err := api.load(p.ctx, "GET", 1, pages)
	if err != nil {
		return err
	}
	p.set("top", load.Median[0])
	p.set("deep", load.Median[1])

	// The page that the bare handler writes is the fetched event's.
	res, err := http.Get(api.url + divertedPath(key(n/2)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if bare.body, err = io.ReadAll(res.Body); err != nil {
		return err
	}
	bare.header = res.Header
	var fetches, bares []string
	for i := range p.count(50_000) {
		fetches = append(fetches, divertedPath(key(i*7919%n)))
		bares = append(bares, barePath)
	}
	if load, err = api.load(p.ctx, "GET", 32, bares); err != nil {
		return err
	}
	p.set("bare", load.Rate)
	_, err = p.timed(func() error {
		load, err = api.load(p.ctx, "GET", 32, fetches)
		return err
	})
	p.set("fetch", load.Rate)
	return err
}

// divertedPath is the route of a diverted event.
func divertedPath(k diverted.Key) string {
	return "/event/" + k.Tenant.String() + "/webhooks/" + k.Webhook.String() + "/diverted/" + k.Event.String()
}

// barePath is where a barePage is.
const barePath = "/bare"

// barePage is a handler that writes the same answer each time, with the headers that httpapi gave it.
type barePage struct {
	header http.Header
	body   []byte
}

func (b *barePage) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for name, values := range b.header {
		if name != "Date" && name != "Content-Length" { // the server's own
			w.Header()[name] = values
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b.body)))
	w.Write(b.body)
}

// api is a server of the routes.
type api struct {
	url    string
	server *http.Server
}

func serveAPI(store diverted.Store, bare http.Handler) (*api, error) {
	handler, err := httpapi.New(httpapi.Config{Diverted: store, Authorize: httpapi.AllowAll})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	if bare != nil {
		mux.Handle(barePath, bare)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &api{url: "http://" + listener.Addr().String(), server: &http.Server{Handler: mux}}
	go a.server.Serve(listener)
	return a, nil
}

func (a *api) close() { a.server.Close() }

// loaded is what a load came to.
type loaded struct {
	Rate   float64    // requests a second
	Median [2]float64 // milliseconds, of the requests at even and at odd places
}

// load makes requests from another process, by a number of clients, in the order of the paths.
func (a *api) load(ctx context.Context, method string, clients int, paths []string) (loaded, error) {
	cmd, err := self(ctx, "load", "-url", a.url, "-method", method, "-clients", strconv.Itoa(clients))
	if err != nil {
		return loaded{}, err
	}
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n"))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return loaded{}, fmt.Errorf("load: %w", err)
	}
	var l loaded
	return l, json.Unmarshal(out.Bytes(), &l)
}

// mainLoad makes the requests whose paths its standard input holds.
func mainLoad(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	url := flags.String("url", "", "")
	method := flags.String("method", "", "")
	clients := flags.Int("clients", 1, "")
	flags.Parse(args)
	var paths []string
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		paths = append(paths, in.Text())
	}
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *clients, DisableCompression: true}}
	times := make([]time.Duration, len(paths))
	buffers := sync.Pool{New: func() any { return new([64 << 10]byte) }}
	began := time.Now()
	err := each(*clients, len(paths), func(i int) error {
		began := time.Now()
		req, err := http.NewRequestWithContext(ctx, *method, *url+paths[i], nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		buffer := buffers.Get().(*[64 << 10]byte)
		defer buffers.Put(buffer)
		if _, err := io.CopyBuffer(io.Discard, onlyReader{res.Body}, buffer[:]); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s: %s", *method, paths[i], res.Status)
		}
		times[i] = time.Since(began)
		return nil
	})
	if err != nil {
		return err
	}
	l := loaded{Rate: float64(len(paths)) / time.Since(began).Seconds()}
	var halves [2][]time.Duration
	for i, t := range times {
		halves[i%2] = append(halves[i%2], t)
	}
	for i, half := range halves {
		if len(half) > 0 {
			slices.Sort(half)
			l.Median[i] = float64(half[len(half)/2]) / float64(time.Millisecond)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(l)
}

// onlyReader hides other methods, so that the buffer is used.
type onlyReader struct{ io.Reader }
