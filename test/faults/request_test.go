package faults

import (
	"net/http"
	"path"
	"slices"
	"strings"
)

// request is what Belay asks the API server for.
type request struct {
	verb        string // get, list, watch, create, update, patch or delete
	resource    string // with its subresource: deployments/status
	namespace   string
	name        string
	listsAtOnce bool // a watch that begins with all there is
}

// parse returns what a request asks for. One that is not about one namespace has the last part of its path for a resource.
func parse(r *http.Request) request {
	q := request{verb: map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]}
	q.resource = path.Base(r.URL.Path)
	_, within, namespaced := strings.Cut(r.URL.Path, "/namespaces/")
	if parts := strings.Split(within, "/"); namespaced && len(parts) > 1 {
		q.namespace, q.resource = parts[0], parts[1]
		if len(parts) > 2 {
			q.name = parts[2]
		}
		if len(parts) > 3 {
			q.resource += "/" + parts[3]
		}
	}
	switch query := r.URL.Query(); {
	case q.verb != "":
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		q.verb, q.listsAtOnce = "watch", query.Get("sendInitialEvents") == "true"
	case q.name != "":
		q.verb = "get"
	default:
		q.verb = "list"
	}
	return q
}

func (q request) writes() bool { return q.verb != "get" && q.verb != "list" && q.verb != "watch" }

// kind returns the resource without its subresource.
func (q request) kind() string {
	kind, _, _ := strings.Cut(q.resource, "/")
	return kind
}

// writesWatched reports whether it writes what Belay watches.
func (q request) writesWatched() bool { return q.writes() && slices.Contains(watched, q.kind()) }

func (q request) String() string { return q.verb + " " + q.resource + " " + q.name }
