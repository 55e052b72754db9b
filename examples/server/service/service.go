// Package service is all of the program examples/server but its store, so that postgres/examples/server is the
// same service on PostgreSQL.
package service

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
	"github.com/divertedevents/diverted/httpapi"
)

// Program is what tells one of the programs from the other.
type Program struct {
	// DB is the default of the flag -db, and Usage what it means.
	DB, Usage string
	// Open opens the store that -db names. Its Close closes all that belongs to it.
	Open func(ctx context.Context, db string) (diverted.Store, error)
	// Setup may change the dispatcher's configuration. Its end is called before the store is closed. Nil: it stays.
	Setup func(store diverted.Store, config *diverted.Config) (end func() error, err error)
}

// Main is the program: it serves until it is told to stop.
func Main(p Program) {
	o := options{program: p}
	flag.StringVar(&o.addr, "addr", "127.0.0.1:8080", "`address` to listen on; port 0 picks one")
	flag.StringVar(&o.db, "db", p.DB, p.Usage)
	flag.StringVar(&o.tokens, "tokens", "", "`file` of the bearer tokens, see README.md")
	flag.BoolVar(&o.open, "open", false, "everyone may do everything, instead of -tokens")
	flag.StringVar(&o.allow, "allow", "", "comma-separated `networks` that webhooks may point to beside public addresses, such as 127.0.0.0/8")
	flag.DurationVar(&o.timeout, "timeout", diverted.DefaultTimeout, "of an attempt, and the grace time of a shutdown")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "server: unexpected argument", flag.Arg(0))
		os.Exit(2)
	}

	// The first signal drains, the second ends the process at once.
	ctx, drain := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		drain()
		<-signals
		os.Exit(1)
	}()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

type options struct {
	program                 Program
	addr, db, tokens, allow string
	open                    bool
	timeout                 time.Duration
}

// run serves until ctx ends and what is under way has ended.
func run(ctx context.Context, o options) error {
	authorize, err := authorizer(o)
	if err != nil {
		return err
	}
	networks, err := parseNetworks(o.allow)
	if err != nil {
		return err
	}
	store, err := o.program.Open(ctx, o.db)
	if err != nil {
		return err
	}
	defer store.Close()

	config := diverted.Config{Timeout: o.timeout, GracePeriod: o.timeout, AllowedNetworks: networks}
	if o.program.Setup != nil {
		end, err := o.program.Setup(store, &config)
		if err != nil {
			return err
		}
		defer end()
	}
	dispatcher, err := diverted.NewDispatcher(store, config)
	if err != nil {
		return err
	}
	api, err := httpapi.New(httpapi.Config{
		Diverted: store, Webhooks: store, Publisher: dispatcher, Pinger: dispatcher, Authorize: authorize,
	})
	if err != nil {
		return err
	}
	operators, err := console.New(console.Config{
		Store: store, Pinger: dispatcher, Authorize: authorize,
		Challenge: `Basic realm="diverted"`, // browsers ask for a name, which may be any, and a password: the token
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/event/", api)
	mux.Handle("/console/", operators)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })

	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	server := newServer(mux, o.timeout)

	// Both run until ctx ends; if one fails, the other is stopped too.
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 2)
	go func() {
		defer stop()
		ended <- dispatcher.Run(working)
	}()
	go func() {
		defer stop()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- err
			return
		}
		ended <- nil
	}()
	fmt.Printf("listening on http://%s\n", listener.Addr())

	<-working.Done()
	slog.Info("draining")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.timeout)
	defer cancel()
	err = server.Shutdown(grace)
	return errors.Join(err, <-ended, <-ended)
}

// newServer returns a server that hangs on nobody, but has the time to answer a ping, which ends with its attempt.
func newServer(handler http.Handler, attempt time.Duration) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30*time.Second + attempt,
		IdleTimeout:       time.Minute,
	}
}

func parseNetworks(list string) ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		network, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("-allow: %w", err)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// grant is what a token permits.
type grant struct {
	Tenant      uuid.UUID            `json:"tenant"`
	Permissions []httpapi.Permission `json:"permissions"`

	hash [sha256.Size]byte // of the token
}

type authorize = func(r *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error

// authorizer reads the tokens, and returns the rule that they make.
func authorizer(o options) (authorize, error) {
	switch {
	case o.open && o.tokens != "":
		return nil, errors.New("-open and -tokens contradict each other")
	case o.open:
		return httpapi.AllowAll, nil
	case o.tokens == "":
		return nil, errors.New("-tokens is needed, or -open, which lets everyone do everything")
	}
	file, err := os.ReadFile(o.tokens)
	if err != nil {
		return nil, fmt.Errorf("-tokens: %w", err)
	}
	var byToken map[string]grant
	decoder := json.NewDecoder(bytes.NewReader(file))
	decoder.DisallowUnknownFields() // a misspelt "permissions" would be a token that may do nothing
	if err := decoder.Decode(&byToken); err != nil {
		return nil, fmt.Errorf("-tokens: %s: must be an object of tokens, each with tenant and permissions, see README.md", o.tokens)
	}
	var grants []grant
	for token, g := range byToken {
		for _, p := range g.Permissions {
			if !slices.Contains(httpapi.Permissions(), p) {
				return nil, fmt.Errorf("-tokens: unknown permission %q, must be one of %v", p, httpapi.Permissions())
			}
		}
		if token == "" || g.Tenant == uuid.Nil {
			return nil, errors.New("-tokens: a token must not be empty, and must have a tenant")
		}
		g.hash = sha256.Sum256([]byte(token))
		grants = append(grants, g)
	}
	return func(r *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error {
		scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
		if ok = ok && strings.EqualFold(scheme, "Bearer"); !ok {
			_, token, ok = r.BasicAuth() // of a browser
		}
		if !ok {
			return httpapi.ErrUnauthenticated
		}
		// Hashes have one length, and every one is compared, so that the time tells nothing of the tokens.
		hash := sha256.Sum256([]byte(token))
		var found *grant
		for i := range grants {
			if subtle.ConstantTimeCompare(hash[:], grants[i].hash[:]) == 1 {
				found = &grants[i]
			}
		}
		switch {
		case found == nil:
			return httpapi.ErrUnauthenticated
		case found.Tenant != tenant:
			return httpapi.ErrForbidden
		}
		for _, p := range permissions {
			if !slices.Contains(found.Permissions, p) {
				return httpapi.ErrForbidden
			}
		}
		return nil
	}, nil
}
