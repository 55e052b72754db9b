package main

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestTheAPIAnswersTheSameOnEveryRouter(t *testing.T) {
	is := is.New(t)
	var out strings.Builder
	is.NoErr(run(t.Context(), &out))
	is.Equal(strings.Count(out.String(), "right"), len(mounts))
}
