package locators_test

import (
	"strings"
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/locators"
)

func TestParseUUIDTakesOneForm(t *testing.T) {
	is := is.New(t)
	const form = "7f9c24e8-3b12-4fef-91e0-56a2d5a1c1aa"
	for _, s := range []string{form, strings.ToUpper(form)} {
		id, ok := locators.ParseUUID(s)
		is.True(ok)
		is.Equal(id.String(), form)
	}
	for _, s := range []string{
		"", "{" + form + "}", "urn:uuid:" + form, strings.ReplaceAll(form, "-", ""), form[:35], form[:35] + "g",
		"00000000-0000-0000-0000-000000000000",
	} {
		_, ok := locators.ParseUUID(s)
		is.True(!ok)
	}
}

func TestParseULIDTakesAllButZeros(t *testing.T) {
	is := is.New(t)
	const form = "01JD0000000000000000000001"
	for _, s := range []string{form, strings.ToLower(form)} {
		id, ok := locators.ParseULID(s)
		is.True(ok)
		is.Equal(id.String(), form)
	}
	for _, s := range []string{"", form[:25], form + "0", "8" + form[1:], form[:25] + "U", strings.Repeat("0", 26)} {
		_, ok := locators.ParseULID(s)
		is.True(!ok)
	}
}
