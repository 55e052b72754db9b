package pings_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/pings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnePingPerWebhookAndInterval(t *testing.T) {
	is := is.New(t)
	var l pings.Limiter
	now := time.Now()
	a, b := diverted.WebhookKey{Tenant: uuid.New(), Webhook: ulid.Make()}, diverted.WebhookKey{Tenant: uuid.New(), Webhook: ulid.Make()}
	is.Equal(l.Take(a, now), time.Duration(0))
	is.Equal(l.Take(b, now), time.Duration(0)) // another webhook does not wait
	is.Equal(l.Take(a, now.Add(2*time.Second)), 3*time.Second)
	is.Equal(l.Take(a, now.Add(pings.Interval)), time.Duration(0)) // a ping that was refused costs nothing
	is.Equal(l.Take(a, now.Add(pings.Interval+time.Second)), 4*time.Second)
}
