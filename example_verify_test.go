package diverted_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
)

// A receiver keeps the body as it came, verifies it, and then decodes it.
func ExampleVerify() {
	const secret diverted.Secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	receiver := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, diverted.MaxEventBytes))
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		if err := diverted.Verify(r.Header, body, secret); err != nil {
			http.Error(w, "not signed by us", http.StatusUnauthorized)
			return
		}
		// Here: remember r.Header.Get("webhook-id"), to know a repetition, and do the work.
		w.WriteHeader(http.StatusNoContent)
	}

	// What a dispatcher sends to an endpoint with HMACEnabled and this secret.
	message := httptest.NewRequest(http.MethodPost, "/hooks", strings.NewReader(`{"type":"order.paid"}`))
	now := time.Now()
	signature, err := diverted.Sign("01JZQ8X4W3M9V6T5R2P1N0KHGF", now, []byte(`{"type":"order.paid"}`), secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	message.Header.Set("webhook-id", "01JZQ8X4W3M9V6T5R2P1N0KHGF")
	message.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	message.Header.Set("webhook-signature", signature)

	answer := httptest.NewRecorder()
	receiver(answer, message)
	fmt.Println(answer.Code)

	// The same with another body.
	message.Body = io.NopCloser(strings.NewReader(`{"type":"order.refunded"}`))
	answer = httptest.NewRecorder()
	receiver(answer, message)
	fmt.Println(answer.Code)
	// Output:
	// 204
	// 401
}
