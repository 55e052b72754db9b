package httpapi

import (
	"errors"
	"net/http"

	"github.com/google/uuid"
)

// The errors that [Config.Authorize] returns, alone or wrapped.
var (
	// ErrUnauthenticated: the request has no credentials, or bad ones. It is answered 401.
	ErrUnauthenticated = errors.New("no good credentials")
	// ErrForbidden: the credentials are good but do not permit this. It is answered 403.
	ErrForbidden = errors.New("not permitted")
)

// Permission names what a caller may do, as group:permission.
type Permission string

// The permissions, as the routes need them.
const (
	DivertedRead   Permission = "diverted-events:read"
	DivertedList   Permission = "diverted-events:list"
	DivertedResend Permission = "diverted-events:resend"
	DivertedDelete Permission = "diverted-events:delete"
	// DivertedPayload shows what was sent, where a diverted event is fetched with extended=true. What receivers
	// answered, which may quote it, is among the failures that DivertedRead shows.
	DivertedPayload Permission = "diverted-events:payload"
	WebhooksRead    Permission = "webhooks:read"
	WebhooksList    Permission = "webhooks:list"
	WebhooksWrite   Permission = "webhooks:write"
	EventsWrite     Permission = "events:write"
)

// Permissions returns all permissions, for those who check what a token may be given.
func Permissions() []Permission {
	return []Permission{DivertedRead, DivertedList, DivertedResend, DivertedDelete, DivertedPayload, WebhooksRead, WebhooksList, WebhooksWrite, EventsWrite}
}

// AllowAll is a [Config.Authorize] that lets everybody do everything in every tenant. It is for tests,
// and for hosts that have checked the request before it comes here.
func AllowAll(*http.Request, uuid.UUID, ...Permission) error { return nil }
