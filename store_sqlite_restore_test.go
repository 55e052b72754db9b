package diverted

import (
	"errors"
	"testing"
	"time"

	"github.com/matryer/is"
)

func TestDivertPendingSetsAsideWhatARestoreWouldSendAgain(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	held, err := s.CreateWebhook(ctx, NewWebhook(acme, "held", "https://example.com/held", "*"))
	is.NoErr(err)
	is.NoErr(s.Suspend(ctx, held.Key()))
	var ms []Message
	for i := range divertStep + 10 { // more than one step
		m := Message{
			Tenant: acme, Webhook: w.Locator, Event: realEvent(t, i).Locator, RequestLocator: w.Locator,
			EventType: "github.push", Body: []byte(`{}`),
		}
		ms = append(ms, m)
	}
	m := realMessage(t, held, 0)
	ms = append(ms, m)
	_, err = s.Accept(ctx, AcceptRequest{Messages: ms})
	is.NoErr(err)
	// One is claimed, as by the process whose database was restored; one waits for a retry.
	res, err := s.Work(ctx, WorkRequest{Claim: claimAll(2)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 2)
	failure := Failure{Trigger: "503", Message: "no", Status: 503}
	claimed, retried := res.Claims[0], res.Claims[1]
	_, err = s.Work(ctx, WorkRequest{Outcomes: []Outcome{{
		Key: retried.Key, Token: retried.Token, Kind: OutcomeRetry, Wait: time.Minute, Failure: &failure,
	}}})
	is.NoErr(err)

	_, err = s.DivertPending(ctx, DivertPendingRequest{})
	is.True(errors.Is(err, ErrInvalid)) // before when?
	soon := time.Now().Add(time.Second)
	n, err := s.DivertPending(ctx, DivertPendingRequest{Before: time.Now().Add(-time.Hour)})
	is.NoErr(err)
	is.Equal(n, 0)
	n, err = s.DivertPending(ctx, DivertPendingRequest{Webhook: held.Key(), Before: soon})
	is.NoErr(err)
	is.Equal(n, 1)
	n, err = s.DivertPending(ctx, DivertPendingRequest{Before: soon})
	is.NoErr(err)
	is.Equal(n, divertStep+10)
	n, err = s.DivertPending(ctx, DivertPendingRequest{Before: soon})
	is.NoErr(err)
	is.Equal(n, 0) // and is safe to repeat

	res, err = s.Work(ctx, WorkRequest{
		Outcomes: []Outcome{{Key: claimed.Key, Token: claimed.Token, Kind: OutcomeDelivered}},
		Claim:    claimAll(10), Refresh: true,
	})
	is.NoErr(err)
	is.True(res.Settled[0].Stale) // the attempt that was under way changes nothing
	is.Equal(len(res.Claims), 0)
	d, err := s.FetchDiverted(ctx, retried.Key)
	is.NoErr(err)
	is.Equal(d.Attempts, 1)
	is.Equal(d.Failure.Trigger, TriggerTimeout)
	is.Equal(d.Failure.Message, DivertPendingRequest{Before: soon}.Failure().Message)
	is.True(!d.DivertedAt.IsZero() && !d.Failure.At.IsZero())

	is.NoErr(s.Resend(ctx, retried.Key)) // what was wanted after all
	is.NoErr(s.Unsuspend(ctx, held.Key()))
	is.NoErr(s.Resend(ctx, Key{acme, held.Locator, m.Event}))
	res, err = s.Work(ctx, WorkRequest{Claim: claimAll(10)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 2)
	for _, c := range res.Claims {
		is.True(c.Diverted)
		is.Equal(c.Attempts, 0)
	}
}
