package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

var errLost = errors.New("the Lease is lost, and another process may lead now")

// options are how long things may take.
type options struct {
	leaseDuration, renewDeadline, retryPeriod, drain time.Duration
}

// check finds what the elector does not check by itself.
func (o options) check() error {
	if o.leaseDuration%time.Second != 0 {
		return fmt.Errorf("--lease-duration is %s; a Lease counts whole seconds, and what is beyond them would be cut", o.leaseDuration)
	}
	if most := o.leaseDuration - o.renewDeadline; o.drain > most {
		return fmt.Errorf("--drain is %s; work that goes on for more than %s may go on while the next one leads", o.drain, most)
	}
	return nil
}

// lead does work while this process holds the Lease. When ctx is done the work ends first, then the Lease is given back.
// It returns errLost when the Lease is lost before that; then the context of the work is done, too.
func lead(ctx context.Context, lock resourcelock.Interface, o options, work func(context.Context)) error {
	leading, over := make(chan struct{}), make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:          lock.Describe(),
		Lock:          lock,
		LeaseDuration: o.leaseDuration,
		RenewDeadline: o.renewDeadline,
		RetryPeriod:   o.retryPeriod,
		// With it the elector gives back a Lease that is lost, too, while the work goes on, and ends the work only when that
		// is done: if the server is silent, so late that the next one leads. See giveBack instead.
		ReleaseOnCancel: false,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(leading) },
			OnStoppedLeading: func() {}, // It is called also if this process never led.
			OnNewLeader: func(identity string) {
				if identity != "" {
					say("%s leads", identity)
				}
			},
		},
	})
	if err != nil {
		return err
	}
	// The election goes on while the work ends.
	holding, letGo := context.WithCancel(context.WithoutCancel(ctx))
	defer letGo()
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		defer close(over)
		// Errors are logged, also that of a renewal which letGo cuts short. What else the elector tells, the callbacks tell
		// as well.
		elector.Run(klog.NewContext(holding, klog.FromContext(ctx).V(2)))
		stop(errLost)
	}()
	select {
	case <-leading:
		work(working)
	case <-ctx.Done():
	}
	if context.Cause(working) == errLost {
		return errLost
	}
	letGo()
	<-over
	return giveBack(context.WithoutCancel(ctx), lock)
}

// giveBack lets the next process lead at once, if this one holds the Lease. It must not work any more.
func giveBack(ctx context.Context, lock resourcelock.Interface) error {
	record, _, err := lock.Get(ctx)
	if err != nil || record.HolderIdentity != lock.Identity() {
		return err
	}
	record.HolderIdentity = ""
	if err := lock.Update(ctx, *record); err != nil {
		return fmt.Errorf("give the Lease back: %w", err)
	}
	say("%s has given the Lease back", lock.Identity())
	return nil
}
