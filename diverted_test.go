package diverted

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

func TestEveryPayloadIsSentByteForByteAndReadBack(t *testing.T) {
	is := is.New(t)
	payloads := testdata.Payloads()
	is.Equal(len(payloads), 329)
	for _, p := range payloads {
		event, err := NewEvent(p.Type, p.Data)
		is.NoErr(err)
		event.UserLocator = uuid.New()
		body, err := event.Encode()
		is.NoErr(err)

		var compact bytes.Buffer
		is.NoErr(json.Compact(&compact, p.Data))
		is.True(bytes.HasSuffix(body, append(append([]byte(`,"data":`), compact.Bytes()...), '}')))
		is.True(json.Valid(body))

		back, err := DecodeEvent(body)
		is.NoErr(err)
		is.Equal(back.Locator, event.Locator)
		is.Equal(back.RequestLocator, event.RequestLocator)
		is.Equal(back.UserLocator, event.UserLocator)
		is.Equal(back.Timestamp, event.Timestamp.Truncate(time.Millisecond))
		is.Equal(back.Type, p.Type)
		is.True(bytes.Equal(back.Data, compact.Bytes()))
		again, err := back.Encode()
		is.NoErr(err)
		is.True(bytes.Equal(again, body))
	}
}

func TestDataKeepsItsBytesButForInsignificantSpace(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"what encoders escape":         {`"<a href='x'>&</a>"`, `"<a href='x'>&</a>"`},
		"line and paragraph separator": {"\"\u2028\u2029\"", "\"\u2028\u2029\""},
		"escapes":                      {`"\u003c\/\ud83d\ude00"`, `"\u003c\/\ud83d\ude00"`},
		"a lone surrogate":             {`"\ud83d"`, `"\ud83d"`},
		"a large number":               {`123456789012345678901234567890.10`, `123456789012345678901234567890.10`},
		"an exponent":                  {`-0.0E+1`, `-0.0E+1`},
		"names given twice, in order":  {`{"b":1,"a":2,"b":3}`, `{"b":1,"a":2,"b":3}`},
		"deep nesting":                 {strings.Repeat("[", 9000) + strings.Repeat("]", 9000), strings.Repeat("[", 9000) + strings.Repeat("]", 9000)},
		"space":                        {" {\n\t\"a\" : [ 1 , 2 ] ,\r\n\"b c\" : \" d \" } ", `{"a":[1,2],"b c":" d "}`},
		"null":                         {`null`, `null`},
		"false":                        {`false`, `false`},
		"an empty string":              {`""`, `""`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			event, err := NewEvent("order.paid", json.RawMessage(tt.data))
			is.NoErr(err)
			body, err := event.Encode()
			is.NoErr(err)
			is.True(bytes.HasSuffix(body, []byte(`,"data":`+tt.want+`}`)))
			back, err := DecodeEvent(body)
			is.NoErr(err)
			is.Equal(string(back.Data), tt.want)
		})
	}
}

func TestTheBodyOfAnEvent(t *testing.T) {
	is := is.New(t)
	event := Event{
		Locator:        ulid.MustParse("01JZQ8X4W3M9V6T5R2P1N0KHGF"),
		RequestLocator: ulid.MustParse("01JZQ8X4W3M9V6T5R2P1N0KHGG"),
		Timestamp:      time.Date(2026, 11, 23, 18, 58, 0, 123456789, time.FixedZone("CET", 3600)),
		Type:           "order.paid",
		Data:           json.RawMessage(`{"total": 7}`),
	}
	body, err := event.Encode()
	is.NoErr(err)
	is.Equal(string(body), `{"locator":"01JZQ8X4W3M9V6T5R2P1N0KHGF","requestId":"01JZQ8X4W3M9V6T5R2P1N0KHGG",`+
		`"timestamp":"2026-11-23T17:58:00.123Z","type":"order.paid","data":{"total":7}}`)
	event.UserLocator = uuid.MustParse("6f0e5c1e-8e6c-4b57-9d0a-2f4f6b9a7c11")
	body, err = event.Encode()
	is.NoErr(err)
	is.True(strings.Contains(string(body), `"requestId":"01JZQ8X4W3M9V6T5R2P1N0KHGG","userLocator":"6f0e5c1e-8e6c-4b57-9d0a-2f4f6b9a7c11","timestamp"`))
}

func TestNewEvent(t *testing.T) {
	is := is.New(t)
	event, err := NewEvent("order.paid", struct {
		Total int `json:"total"`
	}{7})
	is.NoErr(err)
	is.Equal(string(event.Data), `{"total":7}`)
	is.True(!event.Locator.IsZero() && !event.RequestLocator.IsZero() && event.Locator != event.RequestLocator)
	raw, err := NewEvent("order.paid", []byte(`{"total":7}`))
	is.NoErr(err)
	is.Equal(string(raw.Data), `{"total":7}`)

	_, err = NewEvent("order.paid", make(chan int))
	is.Equal(detailOf(err, "data"), "must be a value that JSON can encode, was a chan int")
	_, err = NewEvent("order paid", nil)
	is.True(detailOf(err, "type") != "")
}

func TestEventValidate(t *testing.T) {
	valid, err := NewEvent("order.paid", json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name         string
		change       func(*Event)
		path, detail string
	}{
		{"no locator", func(e *Event) { e.Locator = ulid.ULID{} }, "locator", "must not be zero"},
		{"no request", func(e *Event) { e.RequestLocator = ulid.ULID{} }, "requestId", "must not be zero"},
		{"no timestamp", func(e *Event) { e.Timestamp = time.Time{} }, "timestamp", "must not be zero"},
		{"a year of five digits", func(e *Event) { e.Timestamp = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "timestamp", "was in 10000"},
		{"a year before Christ", func(e *Event) { e.Timestamp = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) }, "timestamp", "was in -1"},
		{"no type", func(e *Event) { e.Type = "" }, "type", `was ""`},
		{"a quote in the type", func(e *Event) { e.Type = `a","b` }, "type", "must be 1 to 128"},
		{"a pattern as type", func(e *Event) { e.Type = "policy.*" }, "type", `was "policy.*"`},
		{"too long a type", func(e *Event) { e.Type = strings.Repeat("a", 129) }, "type", "must be 1 to 128"},
		{"no data", func(e *Event) { e.Data = nil }, "data", "must be one JSON value"},
		{"data that is no JSON", func(e *Event) { e.Data = json.RawMessage(`{`) }, "data", "must be one JSON value"},
		{"two values", func(e *Event) { e.Data = json.RawMessage(`{} {}`) }, "data", "must be one JSON value"},
		{"data that closes the body", func(e *Event) { e.Data = json.RawMessage(`1},{"data":2`) }, "data", "must be one JSON value"},
		{"data that is not UTF-8", func(e *Event) { e.Data = json.RawMessage("\"\xff\"") }, "data", "must be one JSON value, in UTF-8"},
		{"data too deep", func(e *Event) { e.Data = json.RawMessage(strings.Repeat("[", 1e6)) }, "data", "must be one JSON value"},
		{"data that the event makes too deep", func(e *Event) { e.Data = nested(10_000) }, "data", "must be nested less than 10000 deep"},
		{"too much data", func(e *Event) { e.Data = json.RawMessage(`"` + strings.Repeat("a", MaxEventBytes) + `"`) }, "data", "must leave the encoded event within 16777216 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			e := valid
			tt.change(&e)
			err := e.Validate()
			is.True(errors.Is(err, ErrInvalid))
			is.True(strings.Contains(detailOf(err, tt.path), tt.detail))
		})
	}
}

func nested(depth int) json.RawMessage {
	return json.RawMessage(strings.Repeat("[", depth) + strings.Repeat("]", depth))
}

func TestTheDeepestEventIsReadAgain(t *testing.T) {
	is := is.New(t)
	event, err := NewEvent("order.paid", nested(9_999))
	is.NoErr(err)
	body, err := event.Encode()
	is.NoErr(err)
	_, err = DecodeEvent(body)
	is.NoErr(err)
}

func TestDecodeEventRefusesWhatIsNone(t *testing.T) {
	for _, body := range []string{"", "null", "{}", "[]", `"x"`, `{"locator":"short"}`, `{"locator":7}`, "\xff"} {
		t.Run(body, func(t *testing.T) {
			is := is.New(t)
			_, err := DecodeEvent([]byte(body))
			is.True(errors.Is(err, ErrInvalid))
		})
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, p := range testdata.Payloads()[:5] {
		event, err := NewEvent(p.Type, p.Data)
		if err != nil {
			f.Fatal(err)
		}
		body, err := event.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"locator":"01JZQ8X4W3M9V6T5R2P1N0KHGF","data":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		event, err := DecodeEvent(body)
		if err != nil {
			return
		}
		first, err := event.Encode()
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		again, err := DecodeEvent(first)
		if err != nil {
			t.Fatalf("encoded, but not decoded: %v", err)
		}
		second, err := again.Encode()
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s\nis not %s: %v", first, second, err)
		}
	})
}

func TestADeliveryInALogSaysWhyItFailedAndNotWhatWasSent(t *testing.T) {
	is := is.New(t)
	key := Key{Tenant: uuid.New(), Webhook: ulid.Make(), Event: ulid.Make()}
	failure := Failure{Trigger: "503", Message: "503 Service Unavailable"}
	d := DivertedEvent{Key: key, EventType: "order.paid", Attempts: 4, Failure: failure, Body: []byte(`{"secret":1}`)}
	is.Equal(fmt.Sprintf("%+v", d), key.String()+" order.paid: 503 after 4 attempts: 503 Service Unavailable")
	p := PendingDelivery{Key: key, EventType: "order.paid", Attempts: 1, Due: time.UnixMilli(0), Failure: &failure}
	is.Equal(fmt.Sprint(p), key.String()+" order.paid: 1 attempts, due 1970-01-01T00:00:00.000Z: 503 Service Unavailable")
	p.Claimed, p.Failure = true, nil
	is.Equal(fmt.Sprint(p), key.String()+" order.paid: 1 attempts, under way")
}

func TestDivertedEventValidate(t *testing.T) {
	valid := DivertedEvent{
		Key:            Key{Tenant: uuid.New(), Webhook: ulid.Make(), Event: ulid.Make()},
		RequestLocator: ulid.Make(),
		Failure:        Failure{Trigger: "503", Message: "503 Service Unavailable", At: time.Now()},
		EventType:      "order.paid",
		Body:           []byte(`{}`),
	}
	is.New(t).NoErr(valid.Validate())
	for _, tt := range []struct {
		name   string
		change func(*DivertedEvent)
		path   string
	}{
		{"no tenant", func(d *DivertedEvent) { d.Tenant = uuid.Nil }, "tenantLocator"},
		{"no webhook", func(d *DivertedEvent) { d.Webhook = ulid.ULID{} }, "webhookLocator"},
		{"no event", func(d *DivertedEvent) { d.Event = ulid.ULID{} }, "eventLocator"},
		{"no request", func(d *DivertedEvent) { d.RequestLocator = ulid.ULID{} }, "requestLocator"},
		{"no trigger", func(d *DivertedEvent) { d.Failure.Trigger = "" }, "failureTrigger"},
		{"a class as trigger", func(d *DivertedEvent) { d.Failure.Trigger = "5xx" }, "failureTrigger"},
		{"a malformed type", func(d *DivertedEvent) { d.EventType = "" }, "eventType"},
		{"no body", func(d *DivertedEvent) { d.Body = nil }, "body"},
		{"a body that is no JSON", func(d *DivertedEvent) { d.Body = []byte("x") }, "body"},
		{"too large a body", func(d *DivertedEvent) { d.Body = make([]byte, MaxEventBytes+1) }, "body"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			d := valid
			tt.change(&d)
			is.True(detailOf(d.Validate(), tt.path) != "")
		})
	}
}
