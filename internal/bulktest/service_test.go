package bulktest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
)

// service is the process that is killed. It returns at once in any other process, and never in that one.
func service() {
	if os.Getenv("BULKTEST_DB") == "" {
		return
	}
	if err := serve(os.Getenv("BULKTEST_DB")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve says where it serves, and does until it is killed.
func serve(db string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour) // should the parent die
	defer cancel()
	store, err := diverted.OpenSQLite(ctx, db)
	if err != nil {
		return err
	}
	defer store.Close()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Timeout:         attemptTimeout,
		UserAgent:       "generation " + os.Getenv("BULKTEST_GENERATION"),
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:          slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	api, err := httpapi.New(httpapi.Config{Diverted: store, Webhooks: store, Publisher: dispatcher, Authorize: httpapi.AllowAll})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- dispatcher.Run(ctx) }()
	go func() { ended <- http.Serve(listener, api) }()
	fmt.Printf("http://%s\n", listener.Addr())
	return <-ended
}
