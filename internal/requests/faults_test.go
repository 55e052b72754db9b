package requests

import (
	"errors"
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

func TestFaultsAreToldOnce(t *testing.T) {
	is := is.New(t)
	kind := errors.New("bad request")
	var f Faults
	is.NoErr(f.Err(kind))
	f.Add("webhook.endpoint", "must be an object, was a %s", "string")
	f.Merge("webhook", &diverted.InvalidError{Fields: []diverted.FieldError{
		{Path: "endpoint.url", Detail: "must not be empty"}, // within what is known already
		{Path: "", Detail: "must have an endpoint"},         // around it
		{Path: "endpointName", Detail: "must not be empty"}, // another, though its name begins alike
	}})
	f.Merge("webhook", errors.New("no faults of fields"))

	err := f.Err(kind)
	is.True(errors.Is(err, kind))
	is.True(errors.Is(err, diverted.ErrInvalid))
	invalid, ok := errors.AsType[*diverted.InvalidError](err)
	is.True(ok)
	is.Equal(len(invalid.Fields), 2)
	is.Equal(invalid.Fields[0].Detail, "must be an object, was a string")
	is.Equal(invalid.Fields[1].Path, "webhook.endpointName")
}
