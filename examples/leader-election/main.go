// Command leader-election works while it holds a Lease, so that of several processes one works at a time. Start it twice.
//
// Who holds the Lease renews it. Who is interrupted ends its work and gives the Lease back, and the next takes it within
// moments. Who is killed is succeeded when its Lease has not been renewed for --lease-duration. Who cannot renew it for
// --renew-deadline ends: it cannot know who leads by now. No clock is compared with another: everybody counts from when
// it saw the Lease change.
//
// What an election does not give is that never two work at the same time. A process that is stopped for a while (a paused
// machine, a long swap) goes on with what it was doing when it is continued, before it finds out that its Lease is gone.
// A request may arrive long after it was sent. And a leader counts from when the answer to its renewal came, which may be
// late. If two at a time do harm, writes need a fence: see how Belay lets none leave that it cannot be sure of, in
// ../../internal/leader/leader.go. Where all writes are conditional on what was read, by resourceVersion, two at a time only cost work.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/belay-dev/belay/examples/internal/start"
)

func main() {
	host, _ := os.Hostname()
	var o options
	lease := flag.String("lease", "tour", "the Lease; who names the same one takes part in the same election")
	identity := flag.String("identity", host+"_"+string(uuid.NewUUID()), "the name of this process; two with the same would both lead")
	flag.DurationVar(&o.leaseDuration, "lease-duration", 15*time.Second, "after how long without a renewal the next may lead; whole seconds")
	flag.DurationVar(&o.renewDeadline, "renew-deadline", 10*time.Second, "how long the leader tries to renew before it gives up; less than --lease-duration")
	flag.DurationVar(&o.retryPeriod, "retry-period", time.Second, "between two renewals, and, up to 2.2 times as long, between two looks of those who wait")
	flag.DurationVar(&o.drain, "drain", 0, "how long the work goes on after it is told to end; at most --lease-duration less --renew-deadline")
	start.Main("works while it holds a Lease, until it is interrupted.", func(ctx context.Context, config start.Config) error {
		if err := o.check(); err != nil {
			return err
		}
		// An answer that never comes must leave time for another try before the deadline.
		config.Timeout = o.renewDeadline / 2
		client, err := kubernetes.NewForConfig(config.Config)
		if err != nil {
			return err
		}
		if err := tryOut(ctx, client.CoordinationV1().Leases(config.Namespace), *lease); err != nil {
			return err
		}
		lock := &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: config.Namespace, Name: *lease},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
		}
		return lead(ctx, lock, o, func(ctx context.Context) { work(ctx, *identity, o.drain) })
	})
}

// tryOut does once what the elector does for ever: that logs what keeps it from leading, and goes on trying. The Lease is
// there afterwards, held by nobody if it was not there before.
func tryOut(ctx context.Context, leases coordinationclient.LeaseInterface, name string) error {
	lease, err := leases.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil // Another was faster.
	}
	return err
}

// work prints a line a second until ctx is done, and for the time of drain after that.
func work(ctx context.Context, identity string, drain time.Duration) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var end <-chan time.Time
	done := ctx.Done()
	for say("%s works", identity); ; {
		select {
		case <-done:
			say("%s is to end its work: %v", identity, context.Cause(ctx))
			done, end = nil, time.After(drain) // What it has begun it may finish.
		case <-ticker.C:
			say("%s works", identity)
		case <-end:
			say("%s has ended its work", identity)
			return
		}
	}
}

// say prints a line with the time, by which the lines of several processes can be put in order.
func say(format string, args ...any) {
	fmt.Println(time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}
