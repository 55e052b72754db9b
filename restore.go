package diverted

import "time"

// DivertPendingRequest is the request of [SQLiteStore.DivertPending].
type DivertPendingRequest struct {
	// Before selects the deliveries that were accepted before this moment. Required.
	Before time.Time
	// Webhook selects those of one webhook. Zero: those of all webhooks of all tenants.
	Webhook WebhookKey
}

// Validate returns nil, or an [InvalidError].
func (r DivertPendingRequest) Validate() error {
	if r.Before.IsZero() {
		return invalid("before", "must not be zero")
	}
	return nil
}

// Failure returns the failure of the events that the request diverts, for those who write a [Store].
func (r DivertPendingRequest) Failure() *Failure {
	return &Failure{
		Trigger: TriggerTimeout,
		Message: "set aside on request, with all that was accepted before " + r.Before.UTC().Format(time.RFC3339),
	}
}
