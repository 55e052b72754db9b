package diverted_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestImportersPayForFourModulesAndWhatTheyNeed(t *testing.T) {
	is := is.New(t)
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{.Module.Path}}{{end}}", ".", "./httpapi", "./console").Output()
	is.NoErr(err)
	allowed := []string{
		"github.com/divertedevents/diverted",
		"code.dny.dev/ssrf", "github.com/google/uuid", "github.com/oklog/ulid/v2", "modernc.org/sqlite",
		// What the last one needs, on one platform or another.
		"github.com/dustin/go-humanize", "github.com/mattn/go-isatty", "github.com/ncruces/go-strftime",
		"github.com/remyoudompheng/bigfft", "golang.org/x/sys", "modernc.org/libc", "modernc.org/mathutil", "modernc.org/memory",
	}
	for module := range strings.FieldsSeq(string(out)) {
		if !slices.Contains(allowed, module) {
			t.Errorf("importers would pay for %s", module)
		}
	}
}
