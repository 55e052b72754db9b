package requests

import (
	"errors"
	"fmt"
	"iter"

	"github.com/divertedevents/diverted"
)

// Faults collects what is wrong with a request, so that all of it is told at once.
type Faults struct{ fields []diverted.FieldError }

// Add adds one.
func (f *Faults) Add(path, format string, args ...any) {
	f.fields = append(f.fields, diverted.FieldError{Path: path, Detail: fmt.Sprintf(format, args...)})
}

// None says whether nothing is wrong so far.
func (f *Faults) None() bool { return len(f.fields) == 0 }

// Err returns the faults as an error that is kind, nil if there are none.
func (f *Faults) Err(kind error) error {
	if f.None() {
		return nil
	}
	return fmt.Errorf("%w: %w", kind, &diverted.InvalidError{Fields: f.fields})
}

// Fault returns an error that is kind, with one fault.
func Fault(kind error, path, format string, args ...any) error {
	var f Faults
	f.Add(path, format, args...)
	return f.Err(kind)
}

// Merge adds the faults that a rule of package diverted finds, except where a fault is known already: a
// member of the wrong type is not told again as one that is missing.
func (f *Faults) Merge(prefix string, err error) {
	var invalid *diverted.InvalidError
	if !errors.As(err, &invalid) {
		return
	}
	// One path is the other, or within it. Looked up, since a body can have tens of thousands of faults of both kinds.
	known, around := map[string]bool{}, map[string]bool{}
	for _, k := range f.fields {
		known[k.Path] = true
		for path := range enclosing(k.Path) {
			around[path] = true
		}
	}
	for _, field := range invalid.Fields {
		field.Path = join(prefix, field.Path)
		told := around[field.Path]
		for path := range enclosing(field.Path) {
			told = told || known[path]
		}
		if !told {
			f.fields = append(f.fields, field)
		}
	}
}

func join(prefix, path string) string {
	if prefix == "" || path == "" {
		return prefix + path
	}
	return prefix + "." + path
}

// enclosing is a path and all that it is within.
func enclosing(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range len(path) {
			if (path[i] == '.' || path[i] == '[') && !yield(path[:i]) {
				return
			}
		}
		yield(path)
	}
}
