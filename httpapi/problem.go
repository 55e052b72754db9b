package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/hostresend"
	"github.com/divertedevents/diverted/internal/requests"
)

// What can be wrong with a request before a store is asked.
var (
	errNoRoute     = errors.New("no such route")
	errMethod      = errors.New("method not allowed")
	errParameter   = errors.New("invalid parameter")
	errCrossOrigin = errors.New("cross-origin request")
	errPanicked    = errors.New("panic")
	errMediaType   = errors.New("media type not supported")
	errTooLarge    = errors.New("body too large")
	errMalformed   = errors.New("malformed body")
	errBody        = errors.New("invalid body")
	errTooOften    = errors.New("too often")
	errActive      = errors.New("webhook is active")
)

// problem is how an error is answered.
type problem struct {
	err    error
	status int
	code   string
	title  string
	// detail says more than the title where the error itself has nothing to tell. It never depends on what
	// was looked up, so that a foreign locator and an unknown one are answered in the same bytes.
	detail string
	// faults: what is wrong with the request is listed.
	faults bool
	// retryAfter, in seconds, says that the same request may succeed later. 0: not sent.
	retryAfter int
}

// problems is the one table from errors to answers: the first entry whose error matches is the answer.
// Anything that is not here is unforeseen. The README describes each code.
var problems = []problem{
	{err: errNoRoute, status: 404, code: "no_route", title: "There is no such route"},
	{err: errMethod, status: 405, code: "method_not_allowed", title: "The route does not have this method"},
	{err: errParameter, status: 400, code: "invalid_parameter", title: "A parameter is malformed", faults: true},
	{err: errCrossOrigin, status: 403, code: "cross_origin", title: "Cross-origin requests may not change anything"},
	{err: ErrUnauthenticated, status: 401, code: "unauthenticated", title: "The request has no good credentials"},
	{err: ErrForbidden, status: 403, code: "forbidden", title: "The credentials do not permit this"},

	{err: errMediaType, status: 415, code: "unsupported_media_type", title: "The body is not of the right type", faults: true},
	{err: errTooLarge, status: 413, code: "body_too_large", title: "The body is too large", faults: true},
	{err: errMalformed, status: 400, code: "malformed_body", title: "The body is not one JSON value", faults: true},
	{err: errBody, status: 400, code: "invalid_body", title: "The body breaks a rule", faults: true},
	{err: diverted.ErrInvalid, status: 400, code: "invalid_body", title: "The body breaks a rule", faults: true},
	{err: errTooOften, status: 429, code: "too_often", title: "The webhook was pinged a moment ago"},

	{err: diverted.ErrNotFound, status: 404, code: "not_found", title: "There is no such thing in this tenant"},
	{err: diverted.ErrWebhookUnknown, status: 409, code: "webhook_unknown", title: "The webhook is not known here", detail: "The event stays diverted, since there is no webhook to send it to."},
	{err: diverted.ErrDisabled, status: 409, code: "disabled", title: "The webhook is disabled", detail: "Enable it first. Nothing was changed."},
	{err: diverted.ErrSuspended, status: 409, code: "suspended", title: "The webhook is suspended", detail: "Unsuspend it first. Nothing was changed."},
	{err: diverted.ErrExpunged, status: 409, code: "event_expunged", title: "The event was expunged", detail: "Its body is gone for good, so that it can be deleted but not resent. Nothing was changed."},
	{err: errActive, status: 409, code: "active", title: "The webhook is active", detail: "Only what a suspended or disabled webhook holds can be set aside. Nothing was changed."},
	{err: diverted.ErrNotEmpty, status: 409, code: "not_empty", title: "The webhook still has events", detail: "Wait for them, resend or delete them, or discard them with ?discard=true. Nothing was changed."},
	{err: diverted.ErrConflict, status: 409, code: "conflict", title: "Somebody else changed it meanwhile", detail: "Repeat the request. Nothing was changed."},

	{err: hostresend.ErrListed, status: 502, code: "resend_unfinished", title: "The event was resent, but is still listed", detail: "The store could not delete it. Resending sends it again, under the same locator."},
	{err: diverted.ErrFull, status: 503, code: "full", title: "There is no room for the event", retryAfter: 10},
	{err: diverted.ErrLocked, status: 503, code: "unavailable", title: "The service is not available now", retryAfter: 1},
	{err: diverted.ErrClosed, status: 503, code: "unavailable", title: "The service is not available now", retryAfter: 1},
	{err: context.DeadlineExceeded, status: 503, code: "unavailable", title: "The service is not available now", retryAfter: 1},
	{err: context.Canceled, status: 503, code: "unavailable", title: "The service is not available now", retryAfter: 1},
	{err: hostresend.ErrFailed, status: 502, code: "resend_failed", title: "The event could not be resent", detail: "It stays diverted."},
}

// unforeseen answers everything else.
var unforeseen = problem{status: 500, code: "internal", title: "Something went wrong"}

// problemOf returns the entry for an error.
func problemOf(err error) problem {
	for _, p := range problems {
		if errors.Is(err, p.err) {
			return p
		}
	}
	return unforeseen
}

// problemBody is an RFC 9457 problem.
type problemBody struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Code   string       `json:"code"`
	Errors []fieldError `json:"errors,omitempty"`
	// Locator is that of an event that may have been accepted by some webhooks.
	Locator string `json:"locator,omitempty"`
}

type fieldError struct {
	Path   string `json:"path"`
	Detail string `json:"detail"`
}

// problemTypes, with the code after it, is the type of a problem: the section of the README on it.
const problemTypes = "https://github.com/divertedevents/diverted/tree/main/httpapi#"

// maxErrors bounds the faults that one problem lists.
const maxErrors = 50

// problem returns the answer to an error. Only faults of the request itself are repeated to the caller;
// the text of any other error is for the log alone.
func (h *Handler) problem(err error) answer {
	p := problemOf(err)
	body := problemBody{Type: problemTypes + p.code, Title: p.title, Status: p.status, Detail: p.detail, Code: p.code}
	var invalid *diverted.InvalidError
	if p.faults && errors.As(err, &invalid) {
		for _, field := range invalid.Fields[:min(len(invalid.Fields), maxErrors)] {
			body.Errors = append(body.Errors, fieldError{field.Path, field.Detail})
		}
		body.Detail = detailOf(invalid.Fields)
	}

	header := http.Header{"Content-Type": {"application/problem+json"}}
	if p.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	requests.SetHeader(header, err)
	var publish publishError
	if errors.As(err, &publish) && p.status >= 500 {
		body.Detail = "Repeat it with this locator: where it was accepted already that adds nothing."
		body.Locator = publish.locator.String()
	}
	var forbidden forbiddenError
	if errors.As(err, &forbidden) {
		body.Detail = forbidden.Error()
	}
	if p.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", h.config.Challenge)
	}
	return answer{status: p.status, header: header, body: body}
}

// detailOf says in one line what errors lists, for those who show the detail alone.
func detailOf(fields []diverted.FieldError) string {
	const most = 3
	var lines []string
	for _, field := range fields[:min(len(fields), most)] {
		lines = append(lines, field.Error())
	}
	if more := len(fields) - most; more > 0 {
		lines = append(lines, "and "+strconv.Itoa(more)+" more")
	}
	return strings.Join(lines, "; ")
}
