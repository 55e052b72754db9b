package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/oklog/ulid/v2"
)

// A cursor says where the next step of a bulk call begins: after which event, and at which moment the first
// step was made. It is base64url, without padding, of
//
//	version 1 | event locator 16 | moment, in ns since 1970 8 | digest 8
//
// The digest covers what the cursor belongs to: route, tenant, webhook, filter and dry run. So one that was
// cut, or that another call gave, is refused instead of leaving out events in silence. It is not a signature,
// since nothing is to be gained by making a cursor up: it permits nothing, and selects what after and until
// of a first step could select.
const (
	cursorVersion = 1
	cursorSize    = 1 + 16 + 8
	digestSize    = 8
)

// cursor writes the cursor of the step after the one that had this result.
func (c *call) cursor(request diverted.BulkRequest, result diverted.BulkResult) string {
	b := make([]byte, 0, cursorSize+digestSize)
	b = append(b, cursorVersion)
	b = append(b, result.After[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(result.Before.UnixNano()))
	return base64.RawURLEncoding.EncodeToString(append(b, c.digest(b, request)...))
}

// readCursor reads the query parameter after into the request, of which all else is read already.
func (c *call) readCursor(f *faults, request *diverted.BulkRequest) {
	if !c.query.Has("after") {
		return
	}
	s := c.query.Get("after")
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != cursorSize+digestSize || b[0] != cursorVersion ||
		!bytes.Equal(b[cursorSize:], c.digest(b[:cursorSize], *request)) {
		f.Add("after", "must be the next of the step before, with the same filter, was %s", quote(s))
		return
	}
	request.After = ulid.ULID(b[1:17])
	request.Before = time.Unix(0, int64(binary.BigEndian.Uint64(b[17:cursorSize]))).UTC()
}

// digest binds a cursor to its call.
func (c *call) digest(cursor []byte, request diverted.BulkRequest) []byte {
	h := sha256.New()
	h.Write(cursor)
	filter := request.Filter
	fmt.Fprintf(h, "%s %s %s %q %q %d %d %t", c.route.method, c.route.path, request.Webhook,
		filter.Trigger, filter.EventType, filter.Since.UnixMilli(), filter.Until.UnixMilli(), request.DryRun)
	return h.Sum(nil)[:digestSize]
}
