// Package locators reads the locators of requests, alike in all handlers.
package locators

import (
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// What is said of one that is not accepted.
const (
	UUIDRule = "must be a UUID of the form 8-4-4-4-12, and not all zeros"
	ULIDRule = "must be a ULID: 26 characters of Crockford's base 32, and not all zeros"
)

// ParseUUID takes the form 8-4-4-4-12 alone: the braces, the urn: and the bare digits that [uuid.Parse]
// takes as well have other lengths. Zeros are nobody's: to a store a zero tenant can mean all of them.
func ParseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil && id != uuid.Nil
}

// ParseULID refuses zeros too: to a store a zero webhook can mean all of a tenant.
func ParseULID(s string) (ulid.ULID, bool) {
	id, err := ulid.ParseStrict(s)
	return id, err == nil && !id.IsZero()
}
