// Package leader lets one process at a time write: client-go's election, with a fence around it.
package leader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// One process works at a time: the one that holds the Lease. client-go's election alone does not see to that. A leader
// counts from when the answer to its renewal arrives, everybody else from when the API server stored it: if answers are
// slow, two lead for a while. So no write leaves a process that cannot be sure of its Lease: the fence counts from when
// the renewal was sent, which is before anybody else can have seen it.

const (
	// LeaseName is the name of the Lease.
	LeaseName = "belay"
	// After leaseDuration without a renewal the next may lead. A leader that cannot renew for RenewDeadline steps down.
	leaseDuration, RenewDeadline = 15 * time.Second, 10 * time.Second
	// retryPeriod is between two renewals, and, up to 2.2 times as long, between two tries of those who wait.
	retryPeriod = time.Second
	// fenceMargin is how long before the end of the lease the last write may leave, for the way that it has to go and for
	// clocks that do not run at the same speed.
	fenceMargin = 2 * time.Second
)

var (
	// ErrFenced is the error of a write that did not leave.
	ErrFenced = errors.New("not sent: this process cannot be sure of its Lease any more")
	errLost   = errors.New("the Lease is lost: another process may lead now; start again")
)

// NewLease returns the Lease of this process, whose identity no other has.
func NewLease(kube kubernetes.Interface, namespace string) (resourcelock.Interface, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find out a name for the election: %w", err)
	}
	return &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: LeaseName},
		Client:     kube.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
	}, nil
}

// PodNamespace is the namespace of the pod that this process runs in, empty if it runs in none.
func PodNamespace() string {
	data, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// Lead does work while this process holds the lease, and gives it back when work has ended. Its watchdog fails if the
// lease should have been lost and was not.
func Lead(ctx context.Context, lease resourcelock.Interface, fence *Fence, watchdog *leaderelection.HealthzAdaptor, work func(context.Context) error) error {
	leading, over := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:            LeaseName,
		Lock:            fencedLease{lease, fence},
		LeaseDuration:   leaseDuration,
		RenewDeadline:   RenewDeadline,
		RetryPeriod:     retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(leading) },
			OnStoppedLeading: func() {},
			OnNewLeader: func(identity string) {
				klog.FromContext(ctx).Info("Leader", "identity", identity, "self", identity == lease.Identity())
			},
		},
	})
	if err != nil {
		return err
	}
	watchdog.SetLeaderElection(elector)
	holding, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	defer giveBack()
	working, stop := context.WithCancelCause(ctx)
	go func() {
		defer close(over)
		elector.Run(holding)
		stop(errLost)
	}()

	select {
	case <-leading:
		err = work(working)
	case <-ctx.Done():
	}
	fence.close()
	giveBack()
	<-over
	if err == nil && ctx.Err() == nil {
		return errLost
	}
	return err
}

// fencedLease is a Lease whose renewals open the fence and whose loss shuts it, and which is given back only when the fence
// is closed.
type fencedLease struct {
	resourcelock.Interface
	fence *Fence
}

func (l fencedLease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if apierrors.IsNotFound(err) || err == nil && record.HolderIdentity != l.Identity() {
		l.fence.lost()
	}
	return record, raw, err
}

func (l fencedLease) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	sent := time.Now()
	err := l.Interface.Create(ctx, record)
	if err == nil {
		l.fence.renewed(sent)
	}
	return err
}

func (l fencedLease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	// client-go gives a lease back as soon as it is lost, and whoever holds it by then.
	if record.HolderIdentity == "" && !l.fence.mayGiveBack() {
		return errors.New("the workers have not ended, or another holds it")
	}
	sent := time.Now()
	err := l.Interface.Update(ctx, record)
	if err == nil {
		l.fence.renewed(sent)
	}
	return err
}

// Fence lets writes out while the lease is surely held.
type Fence struct {
	mu     sync.Mutex
	until  time.Time
	closed bool
}

// renewed opens the fence for as long as a renewal that was sent then is good for.
func (f *Fence) renewed(sent time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = sent.Add(leaseDuration - fenceMargin)
}

// lost closes the fence until the next renewal. It is called when somebody else holds the Lease before its time is over,
// because it was deleted or changed by hand: client-go's election goes on until RenewDeadline.
func (f *Fence) lost() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = time.Time{}
}

// close closes the fence for good.
func (f *Fence) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// mayGiveBack reports whether no write can leave any more, and nobody else is known to hold the Lease.
func (f *Fence) mayGiveBack() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed && !f.until.IsZero()
}

// opening returns until when a write may leave, and whether one may leave now. Time counts by the wall clock, too: the
// other one stands still while a machine sleeps.
func (f *Fence) opening() (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	return f.until, !f.closed && now.Before(f.until) && now.Round(0).Before(f.until.Round(0))
}

// Around returns a transport that lets every read through, and writes while the fence is open.
func (f *Fence) Around(next http.RoundTripper) http.RoundTripper { return &fenced{next, f} }

type fenced struct {
	next  http.RoundTripper
	fence *Fence
}

func (t *fenced) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method == http.MethodGet || request.Method == http.MethodHead {
		return t.next.RoundTrip(request)
	}
	until, open := t.fence.opening()
	if !open {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, ErrFenced
	}
	// A connection may have to be made first, and a transport tries again by itself: not after that time.
	ctx, cancel := context.WithDeadlineCause(request.Context(), until, ErrFenced)
	response, err := t.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = &cancelOnClose{response.Body, cancel}
	return response, nil
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *fenced) WrappedRoundTripper() http.RoundTripper { return t.next }

// cancelOnClose is the body of an answer, whose context ends with it.
type cancelOnClose struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelOnClose) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
