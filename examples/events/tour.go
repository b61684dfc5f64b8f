package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
)

// tour records Events about one object in several ways, a row of the table for each.
type tour struct {
	client   kubernetes.Interface
	object   *corev1.ConfigMap
	recorder events.EventRecorder
	refused  <-chan error
	older    func(source string) record.EventRecorder
	table    *tabwriter.Writer
}

func (t *tour) show(ctx context.Context) error {
	fmt.Fprintln(t.table, "REASON\tRECORDED\tEVENTS\tCOUNTED\tLOST\tLAST NOTE\tBECAUSE")
	for _, row := range []func(context.Context) error{t.once, t.repeated, t.noted, t.changed, t.combined, t.spam, t.refusal} {
		if err := row(ctx); err != nil {
			return err
		}
	}
	return t.table.Flush()
}

func (t *tour) eventf(reason, note string, args ...any) {
	t.recorder.Eventf(t.object, nil, corev1.EventTypeNormal, reason, "Tour", note, args...)
}

func (t *tour) once(ctx context.Context) error {
	t.eventf("Once", "the first")
	return t.row(ctx, "Once", 1, 1, 1, "")
}

// repeated records the same again and again. The second makes a series of the first.
func (t *tour) repeated(ctx context.Context) error {
	const times = 10
	for i := range times {
		t.eventf("Repeated", "the same")
		if err := t.firstIsStored(ctx, i, "Repeated"); err != nil {
			return err
		}
	}
	return t.row(ctx, "Repeated", times, 1, 2, "from the third on a series is counted in memory, and written later")
}

// noted records Events that differ in their notes only. To the recorder they are the same.
func (t *tour) noted(ctx context.Context) error {
	const times = 3
	for i := range times {
		t.eventf("Noted", "note %d of %d", i+1, times)
		if err := t.firstIsStored(ctx, i, "Noted"); err != nil {
			return err
		}
	}
	return t.row(ctx, "Noted", times, 1, 2, "notes are not compared: the first one stays")
}

// firstIsStored waits after the first Event. Each is sent in a goroutine of its own: if the second overtakes the first,
// the recorder may try it again only after ten seconds.
func (t *tour) firstIsStored(ctx context.Context, i int, reason string) error {
	if i > 0 {
		return nil
	}
	return t.await(ctx, reason, 1, 1)
}

// changed records the same before and after the object has changed. To the recorder these are two.
func (t *tour) changed(ctx context.Context) error {
	t.eventf("Changed", "the same")
	changed := t.object.DeepCopy()
	changed.Data = map[string]string{"changed": "yes"}
	changed, err := t.client.CoreV1().ConfigMaps(t.object.Namespace).Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	t.object = changed
	t.eventf("Changed", "the same")
	return t.row(ctx, "Changed", 2, 2, 2, "resourceVersions are compared: no series")
}

// combined records similar Events in the older way: the tenth message and all later ones become one Event, which is
// counted, and has the latest message.
func (t *tour) combined(ctx context.Context) error {
	const times = 12
	recorder := t.older("tour-combined")
	for i := range times {
		recorder.Eventf(t.object, corev1.EventTypeNormal, "Combined", "message %d of %d", i+1, times)
	}
	return t.row(ctx, "Combined", times, 10, 12, "tools/record: from the tenth on only the latest message is kept")
}

// spam records more than the older way sends: about one object, from one source, 25 at once, then one in five minutes.
func (t *tour) spam(ctx context.Context) error {
	const times = 40
	recorder := t.older("tour-spam")
	for i := range times {
		recorder.Eventf(t.object, corev1.EventTypeNormal, fmt.Sprintf("Spam%d", i+1), "different")
	}
	// One goroutine sends them, in order: when this one is there, the others have been, or never will be.
	t.older("tour-last").Eventf(t.object, corev1.EventTypeNormal, "Last", "after all others")
	if err := t.await(ctx, "Last", 1, 1); err != nil {
		return err
	}
	return t.row(ctx, "Spam", times, 25, 25, "tools/record: a burst of 25 for a source and an object")
}

// refusal records an Event that the API server does not take: about something in a namespace that does not exist.
func (t *tour) refusal(ctx context.Context) error {
	nowhere := t.object.DeepCopy()
	nowhere.Namespace = t.object.Name + "-nowhere"
	t.recorder.Eventf(nowhere, nil, corev1.EventTypeNormal, "Refused", "Tour", "nobody will read this")
	select {
	case err := <-t.refused:
		return t.row(ctx, "Refused", 1, 0, 0, err.Error()+": only the log says so")
	case <-time.After(timeout):
		return errors.New("the API server did not refuse what is about a namespace that does not exist")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// row waits until the API server has what is expected, and prints what it has.
func (t *tour) row(ctx context.Context, reason string, recorded, wantEvents, wantCounted int, because string) error {
	if err := t.await(ctx, reason, wantEvents, wantCounted); err != nil {
		return err
	}
	stored, counted, note, err := t.stored(ctx, reason)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.table, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", reason, recorded, stored, counted, recorded-counted, note, because)
	return nil
}

func (t *tour) await(ctx context.Context, reason string, wantEvents, wantCounted int) error {
	var stored, counted int
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, timeout, true, func(ctx context.Context) (_ bool, err error) {
		select {
		case err := <-t.refused:
			return false, fmt.Errorf("%s: the API server refused an Event: %w", reason, err)
		default:
			stored, counted, _, err = t.stored(ctx, reason)
			return stored == wantEvents && counted == wantCounted, err
		}
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("%s: after %s the API server has %d Events that count %d, want %d and %d; what it refuses is logged",
			reason, timeout, stored, counted, wantEvents, wantCounted)
	}
	return err
}

// stored asks the API server for the Events about the object for that reason (and a number): how many there are, for how
// many they stand, and the note of the last.
func (t *tour) stored(ctx context.Context, reason string) (stored, counted int, note string, err error) {
	list, err := t.client.EventsV1().Events(t.object.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("regarding.uid", string(t.object.UID)).String(),
	})
	if err != nil {
		return 0, 0, "", err
	}
	for i := range list.Items { // Their names say when they were recorded.
		if event := &list.Items[i]; strings.TrimRight(event.Reason, "0123456789") == reason {
			stored++
			counted += standsFor(event)
			note = event.Note
		}
	}
	return stored, counted, note, nil
}

// standsFor returns how often what the Event tells was recorded, as far as it knows.
func standsFor(event *eventsv1.Event) int {
	if event.Series != nil {
		return int(event.Series.Count)
	}
	return max(1, int(event.DeprecatedCount)) // Only the older way counts there.
}
