package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/belay-dev/belay/pkg/rollout"
)

// Every read of a log is in this file. There is one for each failed release, within what its details may take.

const (
	// logLines is how many lines are asked for, and logLimit how many bytes are read of them: far more than a kubelet sends, to which
	// a part of 16 KiB of a line is a line. The server is told no limit: it would leave out the end.
	logLines, logLimit = 20, 2 << 20
	// logTimeout is how long a log may take, with what is left of the time of the details: one that is there comes within
	// milliseconds, and a rollback waits for it.
	logTimeout = time.Second
	// logPause is how long no log of a node is asked for after one that did not come, and none at all after those of maxNoLog nodes:
	// where a node or the way to all of them hangs, it keeps a few rollbacks waiting, and not one after the other.
	logPause, maxNoLog = 10 * time.Second, 3
	// maxLogUnread is how long the words may be that say why a log could not be read, in bytes.
	maxLogUnread = 200
)

var (
	errNoLog      = fmt.Errorf("it did not come within %s", logTimeout)
	errLogPause   = fmt.Errorf("other logs did not come in the last %s", logPause)
	errLogGone    = errors.New("the node does not have it any more")
	errLogTooLong = fmt.Errorf("its last lines are longer than %d MiB", logLimit>>20)
)

// notLog is what a kubelet sends in place of a log that is gone, with code 200: it has begun to answer by then
// (https://github.com/kubernetes/kubernetes/blob/v1.37.2/pkg/kubelet/kuberuntime/kuberuntime_container.go,
// https://github.com/kubernetes/cri-client/blob/v0.37.2/pkg/logs/logs.go).
var notLog = regexp.MustCompile(`^(?:unable to retrieve container logs for \S+|failed to (?:try resolving symlinks in path|open log file) ".*": .*)\n?$`)

// readLog returns the last lines of a log, or why they cannot be read.
func (r *Reader) readLog(ctx context.Context, namespace string, wanted rollout.LogRequest, spent *Budget) *rollout.Log {
	lines, err := r.tailOf(ctx, namespace, wanted, spent)
	if wanted.Previous && apierrors.IsBadRequest(err) {
		wanted.Previous = false // A restart of the whole pod has removed it: the present run is the only one there is.
		lines, err = r.tailOf(ctx, namespace, wanted, spent)
	}
	if err != nil {
		return &rollout.Log{Unread: whyUnread(err)}
	}
	return &rollout.Log{Lines: rollout.Tail(lines)}
}

// tailOf reads the end of a log, in one request.
func (r *Reader) tailOf(ctx context.Context, namespace string, wanted rollout.LogRequest, spent *Budget) (string, error) {
	if r.logsPause(wanted.Node) {
		return "", errLogPause
	}
	if err := spent.take(ctx); err != nil {
		return "", err
	}
	waiting, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	lines, err := r.streamLog(waiting, namespace, wanted)
	switch {
	case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(waiting.Err(), context.DeadlineExceeded):
		return lines, err
	case ctx.Err() == nil: // Else others took the time.
		r.noteNoLog(wanted.Node)
	}
	return "", errNoLog
}

func (r *Reader) streamLog(ctx context.Context, namespace string, wanted rollout.LogRequest) (string, error) {
	options := &corev1.PodLogOptions{Container: wanted.Container, Previous: wanted.Previous, TailLines: new(int64(logLines))}
	stream, err := r.kube.CoreV1().Pods(namespace).GetLogs(wanted.Pod, options).MaxRetries(0).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	var end logEnd
	read, err := io.Copy(&end, io.LimitReader(stream, logLimit))
	switch {
	case err != nil:
		return "", err
	case read == logLimit:
		return "", errLogTooLong
	case notLog.Match(end):
		return "", errLogGone
	}
	return string(end), nil
}

// logEnd keeps the end of what is written to it.
type logEnd []byte

func (e *logEnd) Write(data []byte) (int, error) {
	*e = append(*e, data...)
	*e = (*e)[max(0, len(*e)-rollout.LogWindow):]
	return len(data), nil
}

// logsPause reports whether no log of a node is to be asked for now.
func (r *Reader) logsPause(node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.noLog, func(_ string, at time.Time) bool { return time.Since(at) >= logPause })
	_, hangs := r.noLog[node]
	return hangs || len(r.noLog) >= maxNoLog
}

// noteNoLog notes that a log of a node did not come in time.
func (r *Reader) noteNoLog(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noLog[node] = time.Now()
}

// whyUnread returns why a log could not be read, in a few words.
func whyUnread(err error) string {
	var request *url.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errNoAnswer.Error()
	case apierrors.IsForbidden(err):
		return "the right to read pods/log is missing"
	case apierrors.IsNotFound(err):
		return "the pod is gone"
	case apierrors.IsBadRequest(err):
		return "the node has none of this container"
	case errors.As(err, &request):
		err = request.Err
	}
	text := err.Error()
	if _, why, found := strings.Cut(text, `": `); found && strings.HasPrefix(text, `Get "https://`) {
		text = "the node does not answer: " + why // the API server's words, with the address of the kubelet
	}
	return rollout.Clean(text, maxLogUnread)
}
