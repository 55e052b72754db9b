package diverted

import (
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"strings"
	"time"
)

// Secret is a signing secret: whsec_ and the base64 of 24 to 64 bytes. Whatever prints, logs or
// encodes it shows a mask; convert it to string for the secret itself.
type Secret string

// The sizes of a [Secret], in bytes before base64, and the words around it.
const (
	minSecretBytes = 24
	maxSecretBytes = 64
	secretPrefix   = "whsec_"
	secretMask     = secretPrefix + Mask
)

// GenerateSecret returns a fresh secret of 32 random bytes.
func GenerateSecret() Secret {
	var key [32]byte
	rand.Read(key[:]) // never fails, see its documentation
	return Secret(secretPrefix + base64.StdEncoding.EncodeToString(key[:]))
}

// Validate returns nil if the secret is whsec_ and the standard base64 of 24 to 64 bytes, else an
// [InvalidError], which does not repeat the secret.
func (s Secret) Validate() error {
	_, err := s.key()
	return err
}

// key returns the bytes that sign.
func (s Secret) key() ([]byte, error) {
	encoded, ok := strings.CutPrefix(string(s), secretPrefix)
	switch {
	case s == "":
		return nil, invalid("", "must not be empty; GenerateSecret makes one")
	case !ok:
		return nil, invalid("", "must begin with %s", secretPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") { // which the decoder would skip
		return nil, invalid("", "must be %s and standard base64", secretPrefix)
	}
	if len(key) < minSecretBytes || len(key) > maxSecretBytes {
		return nil, invalid("", "must hold %d to %d bytes, was %d", minSecretBytes, maxSecretBytes, len(key))
	}
	return key, nil
}

// String returns a mask, "" for no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return secretMask
}

// GoString returns what String does, so that %#v shows a mask too.
func (s Secret) GoString() string { return s.String() }

// LogValue returns what String does.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns what String does, so that JSON shows a mask too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SecretOverlap is how long a replaced secret goes on signing beside its successor.
const SecretOverlap = 24 * time.Hour

// maxOldSecrets is how many replaced secrets may sign beside the current one.
const maxOldSecrets = 2

// OldSecret is a secret that was replaced and goes on signing until a moment.
type OldSecret struct {
	Secret Secret
	Until  time.Time
}

// rotate returns e with the old secrets of the endpoint that stands, less those whose time is over, and
// with the secret of stand among them if e has another.
func (e Endpoint) rotate(stand Endpoint, now time.Time, overlap time.Duration) Endpoint {
	e.OldSecrets = nil
	if stand.Secret != "" && stand.Secret != e.Secret && overlap > 0 {
		e.OldSecrets = append(e.OldSecrets, OldSecret{Secret: stand.Secret, Until: now.Add(overlap)})
	}
	for _, old := range stand.OldSecrets {
		if old.Until.After(now) && old.Secret != e.Secret && len(e.OldSecrets) < maxOldSecrets {
			e.OldSecrets = append(e.OldSecrets, old)
		}
	}
	return e
}
