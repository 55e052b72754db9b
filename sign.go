package diverted

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of Standard Webhooks (https://www.standardwebhooks.com), in canonical form. Every message
// has the first two, a signed one all three.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// signatureScheme begins a signature by HMAC-SHA256, the only scheme of this package.
const signatureScheme = "v1,"

// Sign returns the webhook-signature header of a message that is sent at the given time: one signature for
// each secret, separated by spaces. A [Dispatcher] signs by itself; this is for hosts that deliver on their
// own. A malformed secret gives an [ErrInvalid].
//
// A signature is "v1," and the base64 of the HMAC-SHA256 of id.timestamp.body, the timestamp in seconds
// since 1970, as Standard Webhooks defines it.
func Sign(id string, at time.Time, body []byte, secrets ...Secret) (string, error) {
	return sign(id, strconv.FormatInt(at.Unix(), 10), body, secrets)
}

func sign(id, timestamp string, body []byte, secrets []Secret) (string, error) {
	const size = len(signatureScheme) + 44 // the base64 of 32 bytes
	out := make([]byte, 0, len(secrets)*(size+1))
	var sum [sha256.Size]byte
	for i := range secrets {
		key, err := keyOf(secrets, i)
		if err != nil {
			return "", err
		}
		if i > 0 {
			out = append(out, ' ')
		}
		out = append(out, signatureScheme...)
		out = base64.StdEncoding.AppendEncode(out, mac(sum[:0], key, id, timestamp, body))
	}
	return string(out), nil
}

// keyOf returns the key of one of the secrets that a caller gave; its error names which.
func keyOf(secrets []Secret, i int) ([]byte, error) {
	key, err := secrets[i].key()
	if err != nil {
		var f faults
		f.merge(fmt.Sprintf("secrets[%d]", i), err)
		return nil, f.err()
	}
	return key, nil
}

func mac(dst, key []byte, id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	head := make([]byte, 0, 64)
	head = append(append(append(append(head, id...), '.'), timestamp...), '.')
	h.Write(head)
	h.Write(body)
	return h.Sum(dst)
}

// signers returns the secrets that sign a message sent now: the current one, then those it replaced
// whose time is not over.
func (e *Endpoint) signers(now time.Time) []Secret {
	secrets := make([]Secret, 1, 1+maxOldSecrets)
	secrets[0] = e.Secret
	for _, old := range e.OldSecrets {
		if now.Before(old.Until) {
			secrets = append(secrets, old.Secret)
		}
	}
	return secrets
}

// SignatureTolerance is how far the timestamp of a message may be from the receiver's clock, both ways,
// for [Verify] to accept it.
const SignatureTolerance = 5 * time.Minute

// The errors of [Verify].
var (
	// ErrSignatureHeaders: webhook-id, webhook-timestamp or webhook-signature is missing or malformed.
	ErrSignatureHeaders = errors.New("webhook headers are missing or malformed")
	// ErrSignatureTime: the message was signed too long ago, or in the future. It may be a replay.
	ErrSignatureTime = errors.New("webhook timestamp is too far from now")
	// ErrSignature: no signature is by one of the secrets. The message is forged, or was changed, or was
	// signed with a secret that the receiver does not have.
	ErrSignature = errors.New("webhook signature does not match")
)

// Verify returns nil if the message was signed by one of the secrets within five minutes of now. It is for
// receivers written in Go: header and body are the request's, the body as it came, byte for byte. While a
// secret is being rotated give both, in any order; several signatures in the header are all tried. The
// error is [ErrSignatureHeaders], [ErrSignatureTime], [ErrSignature], or [ErrInvalid] if no secret is given
// or one is malformed.
//
// Verify compares in constant time. It cannot tell a repetition within the five minutes: delivery is at
// least once, so a receiver remembers the webhook-id header anyway.
func Verify(header http.Header, body []byte, secrets ...Secret) error {
	id, timestamp, given := header.Get(headerID), header.Get(headerTimestamp), header.Get(headerSignature)
	if id == "" || timestamp == "" || given == "" {
		return ErrSignatureHeaders
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return ErrSignatureHeaders
	}
	if age := time.Since(time.Unix(seconds, 0)); age > SignatureTolerance || age < -SignatureTolerance {
		return ErrSignatureTime
	}
	if len(secrets) == 0 {
		return invalid("secrets", "must not be empty")
	}
	for i := range secrets {
		key, err := keyOf(secrets, i)
		if err != nil {
			return err
		}
		expected := signatureScheme + base64.StdEncoding.EncodeToString(mac(nil, key, id, timestamp, body))
		for one := range strings.FieldsSeq(given) {
			if subtle.ConstantTimeCompare([]byte(one), []byte(expected)) == 1 {
				return nil
			}
		}
	}
	return ErrSignature
}
