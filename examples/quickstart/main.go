// Quickstart tells the whole story of diverted in about twelve seconds: real payloads go by HTTP to a
// receiver that misbehaves, a service is killed in the middle, and nothing is lost.
//
//	go run ./examples/quickstart
//
// It ends with status 0 only if it has checked that every event ended where it should. The receiver is in
// receiver.go; everything that a service of yours would do is here.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
)

// A dozen webhooks that GitHub sent, from @octokit/webhooks-examples; see LICENSE.octokit.
//
//go:embed payloads.jsonl
var payloads []byte

// The tenant that owns the webhooks, and the three webhooks, which a host would keep in a table of its own.
var (
	tenant = uuid.MustParse("7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11")
	good   = ulid.MustParse("01JQ0000000000000000000G00")
	flaky  = ulid.MustParse("01JQ0000000000000000000F1A")
	broken = ulid.MustParse("01JQ0000000000000000000BRK")
)

func main() {
	run := story
	if len(os.Args) == 4 && os.Args[1] == "service" { // the process that is killed
		run = func(ctx context.Context) error { return service(ctx, os.Args[2], os.Args[3]) }
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

// open is what every service begins with: a store, its webhooks, and a dispatcher.
func open(ctx context.Context, path, receiver string) (*diverted.SQLiteStore, *diverted.Dispatcher, error) {
	store, err := diverted.OpenSQLite(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	retry := &diverted.RetryStrategy{Attempts: 3, Interval: time.Second, Type: diverted.Linear}
	for _, w := range []diverted.Webhook{
		{Locator: good, Name: "good"},
		{Locator: flaky, Name: "flaky", FailureHandling: &diverted.FailureHandling{Retry: retry, Divert: true}},
		{Locator: broken, Name: "broken", FailureHandling: &diverted.FailureHandling{Divert: true}}, // no retries
	} {
		w.Tenant, w.Enabled, w.EventTypes = tenant, true, []string{"github.*"}
		w.Endpoint = diverted.Endpoint{URL: receiver + "/" + w.Name}
		if _, err := store.PutWebhook(ctx, w); err != nil {
			return nil, nil, err
		}
	}
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Timeout:         500 * time.Millisecond,
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, // the receiver is on this machine
		Logger:          slog.New(slog.DiscardHandler),                        // the story is told below
	})
	return store, dispatcher, err
}

// service publishes the events that come on its standard input, and delivers them, until it is killed.
func service(ctx context.Context, path, receiver string) error {
	_, dispatcher, err := open(ctx, path, receiver)
	if err != nil {
		return err
	}
	go dispatcher.Run(ctx)
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		event, err := diverted.DecodeEvent(line)
		if err != nil {
			return err
		}
		if _, err := dispatcher.Publish(ctx, tenant, event); err != nil {
			return err
		}
		fmt.Println(event.Locator) // durable: from here on it is not lost
	}
}

func story(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	dir, err := os.MkdirTemp("", "diverted-quickstart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "webhooks.db")
	receiver := newReceiver()
	defer receiver.Close()

	var events []diverted.Event
	for line := range bytes.Lines(payloads) {
		var p struct {
			Type string
			Data json.RawMessage
		}
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		event, err := diverted.NewEvent(p.Type, p.Data)
		if err != nil {
			return err
		}
		events = append(events, event)
	}

	say("Three webhooks subscribe to github.*: one receiver is good, one is flaky, one is broken.")
	say("A service accepts 6 events and is killed (SIGKILL) while it delivers them.")
	if err := killService(ctx, path, receiver, events[:6]); err != nil {
		return err
	}
	say("It is dead. The receiver had %d requests in its hands that nobody waits for any more.", receiver.release())

	say("The service starts again on the same file, and accepts 6 more.")
	store, dispatcher, err := open(ctx, path, receiver.URL)
	if err != nil {
		return err
	}
	defer store.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- dispatcher.Run(running) }()
	for _, event := range events[6:] {
		if _, err := dispatcher.Publish(ctx, tenant, event); err != nil {
			return err
		}
	}

	say("What the dead process had claimed is due again when its leases are over, in ten seconds.")
	if err := receiver.wait(ctx, "good", events, 12); err != nil {
		return err
	}
	say("good:   12 of 12 delivered.")
	if err := receiver.wait(ctx, "flaky", events, 12); err != nil {
		return err
	}
	say("flaky:  12 of 12 delivered, after 503, 503 and a second's wait each.")

	handler, err := httpapi.New(httpapi.Config{Diverted: store, Authorize: httpapi.AllowAll})
	if err != nil {
		return err
	}
	api := httptest.NewServer(handler) // in a service of yours: mux.Handle("/event/", handler)
	defer api.Close()
	base := fmt.Sprintf("%s/event/%s/webhooks/%s/diverted", api.URL, tenant, broken)

	diverts, err := waitForDiverted(ctx, base, 12)
	if err != nil {
		return err
	}
	say("broken: 12 of 12 diverted. GET …/diverted lists them; the first one says:")
	say("        %s %s: %s", diverts[0].FailureTimestamp, diverts[0].FailureTrigger, diverts[0].FailureMessage)

	receiver.repair()
	say("The receiver is repaired. DELETE removes one event, POST …/resend sends the other 11 again.")
	for i, d := range diverts {
		method, url := http.MethodPost, base+"/"+d.EventLocator+"/resend"
		if i == 0 {
			method, url = http.MethodDelete, base+"/"+d.EventLocator
		}
		if err := call(ctx, method, url, nil); err != nil {
			return err
		}
	}
	if err := receiver.wait(ctx, "broken", events, 11); err != nil {
		return err
	}
	stop() // lets attempts under way end, and settles them
	if err := <-ran; err != nil {
		return err
	}

	for _, webhook := range []ulid.ULID{good, flaky, broken} {
		key := diverted.DivertedQuery{Webhook: diverted.WebhookKey{Tenant: tenant, Webhook: webhook}}
		pending, err := store.ListPending(ctx, key)
		if err != nil {
			return err
		}
		diverts, err := store.ListDiverted(ctx, key)
		if err != nil {
			return err
		}
		if len(pending.Deliveries)+len(diverts.Events) > 0 {
			return fmt.Errorf("left over: %d pending and %d diverted", len(pending.Deliveries), len(diverts.Events))
		}
	}
	say("broken: 11 delivered, 1 deleted. Nothing is pending, nothing is diverted, nothing was lost.")
	say("Every body that arrived was, byte for byte, the one that was accepted.")
	return nil
}

// killService runs a service in a process of its own until it has accepted the events and attempts are
// under way, and kills it.
func killService(ctx context.Context, path string, receiver *receiver, events []diverted.Event) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.CommandContext(ctx, self, "service", path, receiver.URL)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		return err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	accepted := bufio.NewScanner(out)
	for _, event := range events {
		body, err := event.Encode()
		if err != nil {
			return err
		}
		if _, err := in.Write(append(body, '\n')); err != nil {
			return err
		}
		if !accepted.Scan() || accepted.Text() != event.Locator.String() {
			return errors.Join(errors.New("the service did not accept the event"), accepted.Err())
		}
	}
	if err := receiver.waitForHeld(ctx); err != nil {
		return err
	}
	if err := child.Process.Kill(); err != nil { // SIGKILL: no goodbye
		return err
	}
	child.Wait() // its error is that it was killed
	return nil
}

// divertedEvent is what the API answers of one.
type divertedEvent struct {
	EventLocator, RequestLocator, FailureMessage, FailureTimestamp, FailureTrigger string
}

// waitForDiverted lists diverted events over HTTP until there are n.
func waitForDiverted(ctx context.Context, url string, n int) ([]divertedEvent, error) {
	for {
		var all []divertedEvent
		if err := call(ctx, http.MethodGet, url, &all); err != nil {
			return nil, err
		}
		if len(all) == n {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d events diverted: %w", len(all), n, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// call makes a request to the API, and decodes the answer into dest if that is not nil.
func call(ctx context.Context, method, url string, dest any) error {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, body)
	}
	if dest == nil {
		return nil
	}
	return json.Unmarshal(body, dest)
}

var began = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%5.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}
