// Server is a small webhook service on diverted: webhooks, events and diverted events over HTTP.
//
//	go run ./examples/server -addr 127.0.0.1:8080 -db webhooks.db -tokens tokens.json
//
// README.md beside this file tells the whole story in curl; the service itself is in service/service.go.
package main

import (
	"context"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/examples/server/service"
)

func main() {
	service.Main(service.Program{
		DB:    "webhooks.db",
		Usage: "`file` of the SQLite database, or memory",
		Open: func(ctx context.Context, db string) (diverted.Store, error) {
			if db == "memory" {
				return diverted.NewMemoryStore(), nil
			}
			return diverted.OpenSQLite(ctx, db)
		},
	})
}
