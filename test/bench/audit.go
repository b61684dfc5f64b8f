package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belay-dev/belay/test/auditlog"
)

// audit is the API server's record of Belay's requests. A request is answered after its line is written.
type audit struct {
	path   string
	offset int64
	all    []request
}

// request is one of Belay's.
type request struct {
	Verb   string
	URI    string                                                  `json:"requestURI"`
	Object struct{ Namespace, Resource, Subresource, Name string } `json:"objectRef"`
	At     time.Time                                               `json:"requestReceivedTimestamp"`
	Body   json.RawMessage                                         `json:"requestObject"`
}

// read tells whether it changes nothing.
func (r request) read() bool { return slices.Contains([]string{"get", "list", "watch"}, r.Verb) }

// compares tells whether it is one of those that notice a restore of etcd: they come now and then, whatever is done.
func (r request) compares() bool { return r.Verb == "list" && strings.HasSuffix(r.URI, "?limit=1") }

// what is the verb and the resource.
func (r request) what() string {
	return strings.TrimSuffix(r.Verb+" "+r.Object.Resource+"/"+r.Object.Subresource, "/")
}

// requests returns Belay's requests in a namespace so far, in the order in which they came.
func (a *audit) requests(namespace string) ([]request, error) {
	var err error
	a.offset, err = auditlog.Read(a.path, a.offset, `"userAgent":"belay/`, func(line []byte) error {
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%s: %w", a.path, err)
		}
		if r.Object.Resource != "deployments" {
			r.Body = nil
		}
		a.all = append(a.all, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var found []request
	for _, r := range a.all {
		if r.Object.Namespace == namespace {
			found = append(found, r)
		}
	}
	slices.SortStableFunc(found, func(a, b request) int { return a.At.Compare(b.At) })
	return found, nil
}

// since returns those that came after a moment.
func since(requests []request, moment time.Time) []request {
	return slices.DeleteFunc(slices.Clone(requests), func(r request) bool { return r.At.Before(moment) })
}

// deploymentWrites returns when each Deployment was written, and with which image, oldest first.
func deploymentWrites(requests []request) (map[string][]moment, error) {
	writes := map[string][]moment{}
	for _, r := range requests {
		if r.read() || r.Object.Resource != "deployments" || r.Object.Subresource != "" {
			continue
		}
		var body struct {
			Metadata struct{ Name string }
			Spec     struct {
				Template struct {
					Spec struct{ Containers []struct{ Image string } }
				}
			}
		}
		if err := json.Unmarshal(r.Body, &body); err != nil {
			return nil, fmt.Errorf("a write of a Deployment: %w", err)
		}
		image := ""
		for _, c := range body.Spec.Template.Spec.Containers {
			image = c.Image
		}
		writes[body.Metadata.Name] = append(writes[body.Metadata.Name], moment{r.At, image})
	}
	return writes, nil
}

// moment is a write of a Deployment.
type moment struct {
	at    time.Time
	image string
}
