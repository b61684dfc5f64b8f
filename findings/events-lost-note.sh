#!/usr/bin/env bash
# client-go's recorder of events.k8s.io/v1 throws away the text of the second event of a reason.
#
# Version: client-go v0.37.2, package tools/events (what controller-runtime's GetEventRecorder returns, too).
# Expected: two events with the same reason about the same object, and different notes, are two events, as with the older
#   package tools/record, which counts only what has the same message.
# Seen: the note is not part of what makes two events the same. The second is sent as "the first one again"
#   ({"series":{"count":2}}); its note reaches nobody. The third is counted, and the count is sent minutes later.
#   What must be read needs a reason or an action of its own.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END'
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
)

var pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "1"}}

var notes = []string{"image a: no such image", "image b: not authorized", "image c: no answer"}

// lines gets a line for each request to the API server.
type lines chan string

// wait ends when a request came, or none for three seconds.
func (l lines) wait() string {
	select {
	case line := <-l:
		return line
	case <-time.After(3 * time.Second):
		return "nothing is sent"
	}
}

type newSink struct{ lines }

func (s newSink) Create(_ context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	s.lines <- "create " + event.Note
	return event, nil
}

func (s newSink) Update(_ context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	s.lines <- "update " + event.Note
	return event, nil
}

func (s newSink) Patch(_ context.Context, event *eventsv1.Event, patch []byte) (*eventsv1.Event, error) {
	var sent struct {
		Note   string
		Series struct{ Count int }
	}
	if err := json.Unmarshal(patch, &sent); err != nil {
		return nil, err
	}
	s.lines <- fmt.Sprintf("patch the count to %d, the note to %q", sent.Series.Count, sent.Note)
	return event, nil
}

type oldSink struct{ lines }

func (s oldSink) Create(event *corev1.Event) (*corev1.Event, error) {
	s.lines <- "create " + event.Message
	return event, nil
}

func (s oldSink) Update(event *corev1.Event) (*corev1.Event, error) {
	s.lines <- "update " + event.Message
	return event, nil
}

func (s oldSink) Patch(event *corev1.Event, patch []byte) (*corev1.Event, error) {
	s.lines <- "patch " + event.Message
	return event, nil
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sent := make(lines)

	old := record.NewBroadcaster(record.WithContext(ctx))
	old.StartRecordingToSink(oldSink{sent})
	oldRecorder := old.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "example"})
	for _, note := range notes {
		oldRecorder.Event(pod, "Warning", "PullFailed", note)
		fmt.Println("tools/record:", sent.wait())
	}

	broadcaster := events.NewBroadcaster(newSink{sent})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		panic(err)
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, "example.com/controller")
	for _, note := range notes {
		recorder.Eventf(pod, nil, "Warning", "PullFailed", "Pull", "%s", note)
		fmt.Println("tools/events:", sent.wait())
	}
}
END

cat >seen <<'END'
tools/record: create image a: no such image
tools/record: create image b: not authorized
tools/record: create image c: no answer
tools/events: create image a: no such image
tools/events: patch the count to 2, the note to ""
tools/events: nothing is sent
END

{
  go mod init finding
  go get k8s.io/client-go@v0.37.2 k8s.io/api@v0.37.2 k8s.io/apimachinery@v0.37.2
  go get .
} 2>log || { cat log >&2; exit 1; }
go run . >now
diff --unified seen now || { echo "changed: the recorders send what stands above behind a +" >&2; exit 1; }
echo "as described"
