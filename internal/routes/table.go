// Package routes finds what a request asks for wherever its handler is mounted: paths are matched from one of their
// segments on, and what stands before that is the host's.
package routes

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Table holds routes by path and method. Once all are added it is safe for concurrent use.
type Table[T any] struct{ paths []*path[T] }

// path is a path with the routes of its methods.
type path[T any] struct {
	name     string
	segments []string
	methods  map[string]T
}

// Add adds the route of a method and a path, in which {name} is a parameter; the first segment is none. A route of
// GET is that of HEAD too. Where two paths match, the one that was added first does.
func (t *Table[T]) Add(method, name string, route T) {
	i := slices.IndexFunc(t.paths, func(p *path[T]) bool { return p.name == name })
	if i < 0 {
		i = len(t.paths)
		t.paths = append(t.paths, &path[T]{name, strings.Split(name, "/"), map[string]T{}})
	}
	t.paths[i].methods[method] = route
	if method == http.MethodGet {
		t.paths[i].methods[http.MethodHead] = route
	}
}

// Match is what a request asks for.
type Match[T any] struct {
	// Route is the route; if the path has it not for this method, Allow lists those that it has.
	Route T
	Allow string
	// Values are those of the path's parameters.
	Values map[string]string
	// Segments counts those of the path, without the host's.
	Segments int
}

// Find returns what a request asks for, false if there is no such path. A path is split while it is escaped, so that %2F
// ends no segment; a value whose escapes are none is as it was sent.
func (t *Table[T]) Find(r *http.Request) (Match[T], bool) {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for i := range segments {
		for _, p := range t.paths {
			values, ok := p.match(segments[i:])
			if !ok {
				continue
			}
			m := Match[T]{Values: values, Segments: len(p.segments)}
			if m.Route, ok = p.methods[r.Method]; !ok {
				m.Allow = strings.Join(slices.Sorted(maps.Keys(p.methods)), ", ")
			}
			return m, true
		}
	}
	return Match[T]{}, false
}

// match returns the values of the path's parameters if the segments, still escaped, are this path's.
func (p *path[T]) match(segments []string) (values map[string]string, ok bool) {
	if len(segments) != len(p.segments) || segments[0] != p.segments[0] {
		return nil, false
	}
	values = map[string]string{}
	for i, want := range p.segments {
		have, err := url.PathUnescape(segments[i])
		if err != nil {
			have = segments[i] // no literal, and no good parameter
		}
		if name, isParameter := strings.CutPrefix(want, "{"); isParameter {
			values[strings.TrimSuffix(name, "}")] = have
		} else if have != want {
			return nil, false
		}
	}
	return values, true
}
