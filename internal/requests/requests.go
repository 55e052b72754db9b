// Package requests is what the handlers do alike with a request before they answer it, each in its own words.
package requests

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/locators"
)

// ReadPath reads the parameters of a path; those that it does not have are zero. bad is told of each that breaks its rule.
func ReadPath(values map[string]string, bad func(name, rule, value string)) (tenant uuid.UUID, webhook, event ulid.ULID) {
	if s, ok := values["tenantLocator"]; ok {
		if tenant, ok = locators.ParseUUID(s); !ok {
			bad("tenantLocator", locators.UUIDRule, s)
		}
	}
	locator := func(name string) (id ulid.ULID) {
		if s, ok := values[name]; ok {
			if id, ok = locators.ParseULID(s); !ok {
				bad(name, locators.ULIDRule, s)
			}
		}
		return id
	}
	return tenant, locator("webhookLocator"), locator("eventLocator")
}

// Refusal is what the host's authorizer answered the handler of that name: one of the errors that it may give, or one that is
// unforeseen, whatever it wraps: a token that was not found is no 404.
func Refusal(handler string, err error, may ...error) error {
	for _, one := range may {
		if errors.Is(err, one) {
			return one
		}
	}
	if err != nil {
		return fmt.Errorf("%s: Authorize: %v", handler, err)
	}
	return nil
}

// headerError is an error whose answer has a header.
type headerError struct {
	error
	name, value string
}

func (e headerError) Unwrap() error { return e.error }

// OtherMethod is err of a route that has these methods alone.
func OtherMethod(err error, allow string) error { return headerError{err, "Allow", allow} }

// Later is err of a request that may succeed after a wait.
func Later(err error, wait time.Duration) error {
	return headerError{err, "Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds())))}
}

// SetHeader sets the header that the answer to err has, if it has one.
func SetHeader(header http.Header, err error) {
	var e headerError
	if errors.As(err, &e) {
		header.Set(e.name, e.value)
	}
}
