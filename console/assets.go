package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"net/http"
	"path"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// templates holds each page by its name: its own file within the layout.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(template.FuncMap{
		"count": count, "span": span, "size": size, "meaning": meaning, "plural": plural, "pieces": pieces, "named": named,
	}).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html"))
	pages := map[string]*template.Template{}
	for _, name := range []string{"home", "webhooks", "webhook", "pending", "event", "bulk", "confirm", "problem"} {
		pages[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, "templates/"+name+".html"))
	}
	return pages
}

// asset is a file that pages load.
type asset struct {
	body      []byte
	mediaType string
	// version changes with the content, and is part of the address that pages load.
	version string
}

// mediaTypes are not left to what the machine makes of a file's name.
var mediaTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// assets holds the files by name.
var assets = readAssets()

func readAssets() map[string]asset {
	all := map[string]asset{}
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err) // the files are embedded: a broken build
	}
	for _, e := range entries {
		body, err := fs.ReadFile(assetFiles, "assets/"+e.Name())
		if err != nil {
			panic(err)
		}
		hash := sha256.Sum256(body)
		all[e.Name()] = asset{body, mediaTypes[path.Ext(e.Name())], hex.EncodeToString(hash[:6])}
	}
	return all
}

// serveAsset answers with a file, which under the address of its version never changes.
func (c *call) serveAsset() (answer, error) {
	a, known := assets[c.asset]
	if !known {
		return answer{}, errNoPage
	}
	header := http.Header{"Content-Type": {a.mediaType}}
	if c.query["v"] == a.version {
		header.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	return answer{status: http.StatusOK, header: header, body: a.body}, nil
}
