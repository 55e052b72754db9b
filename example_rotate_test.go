package diverted_test

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
)

// A secret is replaced while the receiver still has the old one: for a day messages are signed by both.
func ExampleWebhook_Apply() {
	ctx := context.Background()
	store := diverted.NewMemoryStore()
	defer store.Close()
	webhook := diverted.NewWebhook(uuid.New(), "ERP", "https://erp.example/hooks", "order.*")
	webhook.Endpoint.HMACEnabled, webhook.Endpoint.Secret = true, diverted.GenerateSecret()
	webhook, err := store.CreateWebhook(ctx, webhook)
	if err != nil {
		panic(err)
	}

	secret := diverted.GenerateSecret()
	webhook, err = webhook.Apply(diverted.WebhookUpdate{Endpoint: &diverted.EndpointUpdate{Secret: &secret}})
	if err != nil {
		panic(err)
	}
	webhook, err = store.UpdateWebhook(ctx, webhook) // ErrConflict: somebody else changed it, fetch it and repeat
	if err != nil {
		panic(err)
	}
	fmt.Println(webhook.Endpoint.Secret == secret, len(webhook.Endpoint.OldSecrets))
	// Output: true 1
}
