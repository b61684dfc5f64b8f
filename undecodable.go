package main

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
)

const (
	// searchPage is how many objects are read at a time in the search for one that cannot be decoded: an object may have more
	// than a megabyte.
	searchPage = 20
	// mostUndecodable is how many of them are told.
	mostUndecodable = 10
)

// searched is where to search for objects that cannot be decoded.
type searched struct {
	client    rest.Interface
	resource  string
	namespace string
	selector  string
	object    func() runtime.Object // a new one, to decode to
}

// undecodable returns the objects that cannot be decoded, each with the reason: the first of them, if there are many. It
// reads all as JSON, page by page, and decodes one by one: never more than a page is in memory.
func (s searched) undecodable(ctx context.Context) (found []string, err error) {
	options := metav1.ListOptions{LabelSelector: s.selector, Limit: searchPage}
	for {
		var page struct {
			metav1.ListMeta `json:"metadata"`
			Items           []runtime.RawExtension `json:"items"`
		}
		data, err := s.client.Get().NamespaceIfScoped(s.namespace, s.namespace != "").Resource(s.resource).
			VersionedParams(&options, metav1.ParameterCodec).SetHeader("Accept", runtime.ContentTypeJSON).Timeout(requestTimeout).DoRaw(ctx)
		if err == nil {
			err = json.Unmarshal(data, &page)
		}
		if err != nil {
			return found, fmt.Errorf("list %s: %w", s.resource, err)
		}
		for _, item := range page.Items {
			err := json.Unmarshal(item.Raw, s.object())
			if err == nil {
				continue
			}
			var named struct {
				Metadata struct {
					Namespace string `json:"namespace"`
					Name      string `json:"name"`
				} `json:"metadata"`
			}
			_ = json.Unmarshal(item.Raw, &named) // Without a name, the reason is told alone.
			found = append(found, fmt.Sprintf("%s/%s (%v)", named.Metadata.Namespace, named.Metadata.Name, err))
			if len(found) == mostUndecodable {
				return found, nil
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return found, nil
		}
	}
}
