package writegate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// server has one Lease, and notes when each process wrote anything else.
type server struct {
	mu      sync.Mutex
	version int // 0 if there is no Lease
	record  resourcelock.LeaderElectionRecord
	began   map[string]time.Time // when the Lease was stored as a process's for the first time
	stored  map[string]time.Time // and the last time
	wrote   map[string][]time.Time
}

func newServer() *server {
	return &server{began: map[string]time.Time{}, stored: map[string]time.Time{}, wrote: map[string][]time.Time{}}
}

// store stores the Lease, if it is as it was seen.
func (s *server) store(by string, seen int, record resourcelock.LeaderElectionRecord) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen != s.version {
		return seen, apierrors.NewConflict(schema.GroupResource{Resource: "leases"}, "belay", errors.New("changed"))
	}
	s.version, s.record = s.version+1, record
	if record.HolderIdentity == by {
		if _, before := s.began[by]; !before {
			s.began[by] = time.Now()
		}
		s.stored[by] = time.Now()
	}
	return s.version, nil
}

// writer is what carries the writes of a process to the server.
type writer struct {
	*server
	name string
}

func (w writer) RoundTrip(*http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote[w.name] = append(w.wrote[w.name], time.Now())
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

// lock is the way of a process to the Lease.
type lock struct {
	*server
	name string
	seen int
	// late is how long the answer to the fifth renewal takes. What comes after it gets lost. 0 disturbs nothing.
	late    time.Duration
	updates int
}

func (l *lock) lost(ctx context.Context) error {
	if l.late == 0 || l.updates <= 5 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	if err := l.lost(ctx); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.version == 0 {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, "belay")
	}
	record := l.record
	raw, err := json.Marshal(record)
	l.seen = l.version
	return &record, raw, err
}

func (l *lock) Create(_ context.Context, record resourcelock.LeaderElectionRecord) (err error) {
	l.seen, err = l.store(l.name, 0, record)
	return err
}

func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) (err error) {
	l.updates++
	if err := l.lost(ctx); err != nil {
		return err
	}
	l.seen, err = l.store(l.name, l.seen, record)
	if l.updates == 5 {
		time.Sleep(l.late)
	}
	return err
}

func (l *lock) RecordEvent(string) {}
func (l *lock) Identity() string   { return l.name }
func (l *lock) Describe() string   { return "belay" }
