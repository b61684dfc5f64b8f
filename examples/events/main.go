// Command events records Events about a ConfigMap, and counts what of that the API server has in the end.
//
// An Event tells people what a controller did, and nothing more: do not decide on one, and put what must not be lost into
// a status. The recorder never reports an error. Between Eventf and etcd are goroutines, a bounded queue, a cache that
// makes one Event of many that are alike, and requests; what fails there is logged at best. It is lost
//
//   - when the process ends: what is on its way, and the counts of series, which are written every half hour, and when a
//     series has ended six minutes ago;
//   - when the API server answers with an error, also with one that would have been over a second later. Only when no
//     answer comes, the recorder tries again. Belay puts a sink of its own below it, that tries again in both cases and
//     counts what it gives up: ../../internal/telemetry/events.go.
//
// k8s.io/client-go/tools/events is the package for new code. The older tools/record is still in wide use: it counts at
// once, and keeps back what looks like spam. Events of both stay as long as the API server is told to keep them, by
// default an hour. The line on standard error is client-go's: it is all that a recorder ever tells of a refused Event.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"

	"github.com/belay-dev/belay/examples/internal/start"
)

// timeout bounds each request, and how long is waited for what was recorded.
const timeout = 30 * time.Second

func main() {
	start.Main("records Events about a ConfigMap, and shows what became of them.", run)
}

func run(ctx context.Context, config start.Config) error {
	config.Timeout = timeout
	client, err := kubernetes.NewForConfig(config.Config)
	if err != nil {
		return err
	}
	objects := client.CoreV1().ConfigMaps(config.Namespace)
	object, err := objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "events-"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	defer func() {
		if err := objects.Delete(context.WithoutCancel(ctx), object.Name, metav1.DeleteOptions{}); err != nil {
			fmt.Fprintf(os.Stderr, "delete %s: %v\n", object.Name, err)
		}
	}()

	// The recorder looks up here of what kind an object is: those that a client has read do not say. A scheme of one's own
	// knows the kinds of this program; scheme.Scheme is shared with everything else in the process.
	kinds := runtime.NewScheme()
	if err := corev1.AddToScheme(kinds); err != nil {
		return err
	}
	recording, stop := context.WithCancel(ctx)
	defer stop()
	refused := make(chan error, 1)
	broadcaster := events.NewBroadcaster(&sink{&events.EventSinkImpl{Interface: client.EventsV1()}, refused})
	if err := broadcaster.StartRecordingToSinkWithContext(recording); err != nil {
		return err
	}
	defer broadcaster.Shutdown()
	older := record.NewBroadcaster(record.WithContext(recording))
	older.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer older.Shutdown()

	t := &tour{
		client: client, object: object, refused: refused,
		recorder: broadcaster.NewRecorder(kinds, "tour"),
		older: func(source string) record.EventRecorder {
			return older.NewRecorder(kinds, corev1.EventSource{Component: source})
		},
		table: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0),
	}
	return t.show(ctx)
}

// sink sends Events, and tells of one that the API server refuses.
type sink struct {
	events.EventSink
	refused chan<- error
}

func (s *sink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	stored, err := s.EventSink.Create(ctx, event)
	// That it exists already is how one of two that overtook each other ends.
	if errors.As(err, new(*apierrors.StatusError)) && !apierrors.IsAlreadyExists(err) {
		select {
		case s.refused <- err:
		default:
		}
	}
	return stored, err
}
