package watchhealth

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
)

const (
	// searchPage is how many objects are read at a time in the search for one that cannot be decoded: an object may have more
	// than a megabyte.
	searchPage = 20
	// mostUndecodable is how many of them are told.
	mostUndecodable = 10
	// namesOnly asks for nothing but metadata, and not as JSON: the name of an object can be read whatever is in the object.
	namesOnly = runtime.ContentTypeProtobuf + ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// objectList is a list of objects, as far as it is read here.
type objectList interface {
	runtime.Object
	GetContinue() string
	GetResourceVersion() string
}

// Undecodable returns the objects that cannot be decoded, each with the reason: the first of them, if there are many. It
// reads all, a page at a time, with the client that the caches use, and those of a page that cannot be decoded one by one.
func Undecodable(ctx context.Context, s Source) (found []string, err error) {
	page := metav1.ListOptions{LabelSelector: s.Selector, Limit: searchPage}
	for {
		list, err := s.read(ctx, s.Namespace, page)
		switch {
		case err == nil:
			page.Continue = list.GetContinue()
		case unreadable(err):
			names, err := s.names(ctx, page)
			if err != nil {
				return found, fmt.Errorf("list the names of %s: %w", s.Resource, err)
			}
			if found = append(found, s.oneByOne(ctx, names.Items)...); len(found) >= mostUndecodable {
				return found[:mostUndecodable], nil
			}
			page.Continue = names.Continue
		default:
			return found, fmt.Errorf("list %s: %w", s.Resource, err)
		}
		if page.Continue == "" {
			return found, nil
		}
	}
}

// oneByOne returns those of the objects that cannot be decoded, each with the reason.
func (s Source) oneByOne(ctx context.Context, objects []metav1.PartialObjectMetadata) (found []string) {
	for _, object := range objects {
		one := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, object.Name).String()}
		if _, err := s.read(ctx, object.Namespace, one); unreadable(err) {
			found = append(found, fmt.Sprintf("%s/%s (%v)", object.Namespace, object.Name, err))
		}
	}
	return found
}

// names returns the metadata of the objects of a page.
func (s Source) names(ctx context.Context, page metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	data, err := s.get(s.Namespace, page).SetHeader("Accept", namesOnly).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	names := &metav1.PartialObjectMetadataList{}
	_, _, err = protobuf.NewSerializer(metadataScheme, metadataScheme).Decode(data, nil, names)
	return names, err
}

// read decodes what a list returns.
func (s Source) read(ctx context.Context, namespace string, options metav1.ListOptions) (objectList, error) {
	list := s.list()
	return list, s.get(namespace, options).Do(ctx).Into(list)
}

func (s Source) get(namespace string, options metav1.ListOptions) *rest.Request {
	return s.Client.Get().NamespaceIfScoped(namespace, namespace != "").Resource(s.Resource).
		VersionedParams(&options, metav1.ParameterCodec).Timeout(searchTimeout)
}

var metadataScheme = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(metav1.AddMetaToScheme(scheme))
	return scheme
}()
