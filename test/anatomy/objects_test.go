package anatomy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	belayscheme "github.com/belay-dev/belay/pkg/generated/clientset/versioned/scheme"
)

// The objects in testdata are from a cluster, after a second release of a small web service.

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func init() {
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(belayscheme.AddToScheme(scheme))
}

// load returns the object of that kind.
func load(tb testing.TB, kind string) runtime.Object { return like(tb, read(tb, kind), "web", 0) }

// read returns the object of that kind as JSON.
func read(tb testing.TB, kind string) []byte {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", kind+".yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	text, err = yaml.YAMLToJSON(text)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// uids finds the end of each uid, also in the managed fields.
var uids = regexp.MustCompile(`([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-)[0-9a-f]{12}`)

// like returns the n-th object like text, with a name and uids of its own.
func like(tb testing.TB, text []byte, name string, n int) runtime.Object {
	tb.Helper()
	text = uids.ReplaceAll(text, fmt.Appendf(nil, "${1}%012x", n))
	object, err := runtime.Decode(codecs.UniversalDeserializer(), text)
	if err != nil {
		tb.Fatal(err)
	}
	object.(metav1.Object).SetName(name)
	return object
}

// serializerFor returns what speaks that media type.
func serializerFor(tb testing.TB, mediaType string) runtime.SerializerInfo {
	tb.Helper()
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		tb.Fatalf("nothing speaks %s", mediaType)
	}
	return info
}

// encoder returns what writes objects of that version, as a server does.
func encoder(tb testing.TB, mediaType string, version schema.GroupVersion) runtime.Encoder {
	tb.Helper()
	return codecs.EncoderForVersion(serializerFor(tb, mediaType).Serializer, version)
}
