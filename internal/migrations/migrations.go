// Package migrations has the steps by which a database's schema is brought up to date.
package migrations

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Migration is a numbered file, applied once, in one transaction, and never edited afterwards. It only adds, and says which
// release's schema is the oldest that may still open the database: the minimum rises one release after the addition, so
// that a deploy can be rolled back.
type Migration struct {
	Version, Minimum int
	Script           string
}

// Load returns the migrations of a folder, whose names begin with their version: 0001_initial.sql. minimums is, for each
// version, the oldest one whose release may open the database.
func Load(files fs.FS, folder string, minimums []int) ([]Migration, error) {
	names, err := fs.Glob(files, folder+"/*.sql")
	if err != nil {
		return nil, err
	}
	var all []Migration
	for i, name := range names {
		script, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 || version >= len(minimums) || minimums[version] < 1 || minimums[version] > version {
			return nil, fmt.Errorf("migration %s: out of order, or without a minimum", name)
		}
		all = append(all, Migration{version, minimums[version], string(script)})
	}
	return all, nil
}
