package diverted

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/matryer/is"
)

func TestSignAgreesWithThePublishedVectors(t *testing.T) {
	for _, tt := range []struct {
		secret    Secret
		id        string
		timestamp int64
		body      string
		want      string
	}{
		{
			"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
			`{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
		{
			"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1649367553,
			`{"email":"test@example.com","username":"test_user"}`, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
		},
	} {
		t.Run(tt.id, func(t *testing.T) {
			is := is.New(t)
			got, err := Sign(tt.id, time.Unix(tt.timestamp, 0), []byte(tt.body), tt.secret)
			is.NoErr(err)
			is.Equal(got, tt.want)

			// The fake clock begins in 2000: sleep until the vector is a message of this minute.
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				time.Sleep(time.Until(time.Unix(tt.timestamp, 0)))
				h := http.Header{}
				h.Set("webhook-id", tt.id)
				h.Set("webhook-timestamp", strconv.FormatInt(tt.timestamp, 10))
				h.Set("webhook-signature", tt.want)
				is.NoErr(Verify(h, []byte(tt.body), tt.secret))
			})
		})
	}
}

func TestSignRefusesAMalformedSecret(t *testing.T) {
	is := is.New(t)
	_, err := Sign("id", time.Now(), nil, GenerateSecret(), "whsec_")
	is.True(errors.Is(err, ErrInvalid))
	is.Equal(err.Error(), "diverted: invalid: secrets[1]: must hold 24 to 64 bytes, was 0")
	is.Equal(Secret("hunter2").Validate().Error(), "diverted: invalid: must begin with whsec_") // which has no field
}

func TestVerify(t *testing.T) {
	const id = "01JZQ8X4W3M9V6T5R2P1N0KHGF"
	var (
		body          = []byte(testdata.Payloads()[7].Data)
		current, old  = GenerateSecret(), GenerateSecret()
		other         = GenerateSecret()
		longSecret    = Secret(secretPrefix + base64.StdEncoding.EncodeToString(make([]byte, 64)))
		bothSecrets   = []Secret{current, old}
		headerName    = func(name, value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
		unsignedBytes = append([]byte(" "), body...)
	)
	for _, tt := range []struct {
		name    string
		signed  []Secret
		age     time.Duration
		change  func(http.Header)
		body    []byte
		secrets []Secret
		want    error
	}{
		{name: "as it was sent", signed: []Secret{current}, secrets: []Secret{current}},
		{name: "the longest secret", signed: []Secret{longSecret}, secrets: []Secret{longSecret}},
		{name: "two signatures, the receiver has the new secret", signed: bothSecrets, secrets: []Secret{current}},
		{name: "two signatures, the receiver has the old secret", signed: bothSecrets, secrets: []Secret{old}},
		{name: "one signature, the receiver has both secrets", signed: []Secret{current}, secrets: []Secret{old, current}},
		{name: "signatures of other schemes beside it", signed: []Secret{current}, secrets: []Secret{current}, change: func(h http.Header) {
			h.Set("webhook-signature", "v1a,c2lnbmF0dXJl v1,  "+h.Get("webhook-signature")+" v2,x")
		}},
		{name: "as old as it may be", signed: []Secret{current}, secrets: []Secret{current}, age: SignatureTolerance},
		{name: "as far ahead as it may be", signed: []Secret{current}, secrets: []Secret{current}, age: -SignatureTolerance},
		{name: "too old", signed: []Secret{current}, secrets: []Secret{current}, age: SignatureTolerance + time.Second, want: ErrSignatureTime},
		{name: "too far ahead", signed: []Secret{current}, secrets: []Secret{current}, age: -SignatureTolerance - time.Second, want: ErrSignatureTime},
		{name: "after a revocation", signed: []Secret{current}, secrets: []Secret{old}, want: ErrSignature},
		{name: "another secret", signed: []Secret{current}, secrets: []Secret{other}, want: ErrSignature},
		{name: "another body", signed: []Secret{current}, body: unsignedBytes, secrets: []Secret{current}, want: ErrSignature},
		{name: "another id", signed: []Secret{current}, change: headerName("webhook-id", "x"), secrets: []Secret{current}, want: ErrSignature},
		{name: "another timestamp", signed: []Secret{current}, change: func(h http.Header) {
			h.Set("webhook-timestamp", strconv.FormatInt(time.Now().Unix()-1, 10))
		}, secrets: []Secret{current}, want: ErrSignature},
		{name: "a signature cut short", signed: []Secret{current}, change: func(h http.Header) {
			h.Set("webhook-signature", h.Get("webhook-signature")[:20])
		}, secrets: []Secret{current}, want: ErrSignature},
		{name: "no id", signed: []Secret{current}, change: headerName("webhook-id", ""), secrets: []Secret{current}, want: ErrSignatureHeaders},
		{name: "no timestamp", signed: []Secret{current}, change: headerName("webhook-timestamp", ""), secrets: []Secret{current}, want: ErrSignatureHeaders},
		{name: "no signature", signed: []Secret{current}, change: headerName("webhook-signature", ""), secrets: []Secret{current}, want: ErrSignatureHeaders},
		{name: "a timestamp that is none", signed: []Secret{current}, change: headerName("webhook-timestamp", "soon"), secrets: []Secret{current}, want: ErrSignatureHeaders},
		{name: "a timestamp beyond every clock", signed: []Secret{current}, change: headerName("webhook-timestamp", "-9223372036854775808"), secrets: []Secret{current}, want: ErrSignatureTime},
		{name: "no secret", signed: []Secret{current}, want: ErrInvalid},
		{name: "a malformed secret", signed: []Secret{current}, secrets: []Secret{"whsec_"}, want: ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				at := time.Now().Add(-tt.age)
				signature, err := Sign(id, at, body, tt.signed...)
				is.NoErr(err)
				h := http.Header{}
				h.Set("webhook-id", id)
				h.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
				h.Set("webhook-signature", signature)
				if tt.change != nil {
					tt.change(h)
				}
				received := body
				if tt.body != nil {
					received = tt.body
				}
				is.True(errors.Is(Verify(h, received, tt.secrets...), tt.want))
			})
		})
	}
}

func TestSecretValidate(t *testing.T) {
	encoded := func(n int) Secret { return Secret(secretPrefix + base64.StdEncoding.EncodeToString(make([]byte, n))) }
	for _, tt := range []struct {
		name   string
		secret Secret
		detail string // "": valid
	}{
		{"generated", GenerateSecret(), ""},
		{"the shortest", encoded(24), ""},
		{"the longest", encoded(64), ""},
		{"empty", "", "must not be empty"},
		{"the prefix alone", "whsec_", "must hold 24 to 64 bytes, was 0"},
		{"without the prefix", encoded(32)[len(secretPrefix):], "must begin with whsec_"},
		{"the prefix in capitals", "WHSEC_" + encoded(32)[len(secretPrefix):], "must begin with whsec_"},
		{"no base64", "whsec_" + Secret(strings.Repeat("!", 44)), "standard base64"},
		{"base64 without its padding", encoded(32)[:len(encoded(32))-1], "standard base64"},
		{"the base64 of URLs", "whsec_" + Secret(strings.Repeat("-_-_", 11)), "standard base64"},
		{"a line break inside", encoded(30)[:20] + "\n" + encoded(30)[20:], "standard base64"},
		{"too short", encoded(23), "must hold 24 to 64 bytes, was 23"},
		{"too long", encoded(65), "must hold 24 to 64 bytes, was 65"},
		{"a mask that was sent back", secretMask, "standard base64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			err := tt.secret.Validate()
			if tt.detail == "" {
				is.NoErr(err)
				return
			}
			is.True(errors.Is(err, ErrInvalid))
			is.True(strings.Contains(err.Error(), tt.detail))
			if len(tt.secret) > len(secretMask) {
				is.True(!strings.Contains(err.Error(), string(tt.secret[len(secretPrefix):])))
			}
		})
	}
}

func TestGeneratedSecretsDiffer(t *testing.T) {
	is := is.New(t)
	one, other := GenerateSecret(), GenerateSecret()
	is.True(one != other)
}

func FuzzSecret(f *testing.F) {
	f.Add(string(GenerateSecret()))
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Add("whsec_")
	f.Add("")
	f.Add("whsec_\r\nMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Fuzz(func(t *testing.T, s string) {
		now := time.Now()
		signature, err := Sign("id", now, []byte(`{}`), Secret(s))
		if (err == nil) != (Secret(s).Validate() == nil) {
			t.Fatalf("Sign and Validate disagree: %v", err)
		}
		if err != nil {
			return
		}
		h := http.Header{"Webhook-Id": {"id"}, "Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)}}
		h.Set("Webhook-Signature", signature)
		if err := Verify(h, []byte(`{}`), Secret(s)); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	body, err := realEvent(b, 0).Encode()
	if err != nil {
		b.Fatal(err)
	}
	secrets := []Secret{GenerateSecret(), GenerateSecret()}
	for name, secrets := range map[string][]Secret{"one": secrets[:1], "rotating": secrets} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := sign("01JZQ8X4W3M9V6T5R2P1N0KHGF", "1614265330", body, secrets); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
