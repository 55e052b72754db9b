package requests

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/locators"
)

func TestReadPathTellsOfEachParameterThatBreaksItsRule(t *testing.T) {
	is := is.New(t)
	var told []string
	bad := func(name, rule, value string) { told = append(told, name+": "+rule+": "+value) }
	tenant, webhook, event := ReadPath(map[string]string{
		"tenantLocator": "5c0f1e0a-8c9e-4c0f-9f53-1e1f0b7d2a44", "webhookLocator": "01JQ000000000000000CVST0MR", "other": "any",
	}, bad)
	is.Equal(tenant.String(), "5c0f1e0a-8c9e-4c0f-9f53-1e1f0b7d2a44")
	is.Equal(webhook.String(), "01JQ000000000000000CVST0MR")
	is.True(event.IsZero())
	is.Equal(len(told), 0)

	ReadPath(map[string]string{"tenantLocator": "5", "webhookLocator": "6", "eventLocator": ""}, bad)
	is.Equal(told, []string{
		"tenantLocator: " + locators.UUIDRule + ": 5", "webhookLocator: " + locators.ULIDRule + ": 6", "eventLocator: " + locators.ULIDRule + ": ",
	})
}

func TestRefusalHidesWhatIsUnforeseen(t *testing.T) {
	is := is.New(t)
	forbidden, gone := errors.New("forbidden"), errors.New("not found")
	is.NoErr(Refusal("api", nil, forbidden))
	is.Equal(Refusal("api", fmt.Errorf("no such role: %w", forbidden), forbidden), forbidden)
	err := Refusal("api", fmt.Errorf("token: %w", gone), forbidden)
	is.True(err != nil)
	is.True(!errors.Is(err, gone))
}

func TestAnErrorKeepsTheHeaderOfItsAnswer(t *testing.T) {
	is := is.New(t)
	cause := errors.New("busy")
	header := http.Header{}
	SetHeader(header, cause)
	is.Equal(len(header), 0)
	err := fmt.Errorf("ping: %w", Later(cause, 1100*time.Millisecond))
	is.True(errors.Is(err, cause))
	SetHeader(header, err)
	is.Equal(header.Get("Retry-After"), "2") // whole seconds, and never too early
	SetHeader(header, OtherMethod(cause, "GET, HEAD"))
	is.Equal(header.Get("Allow"), "GET, HEAD")
}
