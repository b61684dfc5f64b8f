package anatomy

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// retryFirst and retryMost are Belay's.
const retryFirst, retryMost = 5 * time.Millisecond, 30 * time.Second

func TestTheBackoffDoublesUpToItsCap(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limiter workqueue.TypedRateLimiter[string]
		capped  int // how many failures before the first that waits as long as the cap
		most    time.Duration
		until   time.Duration // all waits before that
	}{
		"Belay's":     {workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMost), 13, 30 * time.Second, 40955 * time.Millisecond},
		"the default": {workqueue.DefaultTypedControllerRateLimiter[string](), 18, 1000 * time.Second, 1310715 * time.Millisecond},
	} {
		var until time.Duration
		for failure, want := 0, 5*time.Millisecond; failure < test.capped; failure, want = failure+1, want*2 {
			got := test.limiter.When("web")
			if until += got; got != want {
				t.Errorf("%s: failure %d waits %s, want %s", name, failure+1, got, want)
			}
		}
		if until != test.until {
			t.Errorf("%s: the cap is reached after %s, want %s", name, until, test.until)
		}
		for range 1000 {
			if got := test.limiter.When("web"); got != test.most {
				t.Fatalf("%s: a failure after that waits %s, want %s", name, got, test.most)
			}
		}
	}
}

func TestAFailingKeyComesBackAtTheseTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := newQueue()
		defer queue.ShutDown()
		queue.Add("web")
		want := time.Duration(0)
		for failure := range 20 {
			if got := nextAfter(queue); got != want {
				t.Errorf("try %d came after %s, want %s", failure+1, got, want)
			}
			queue.AddRateLimited("web")
			want = min(retryFirst<<failure, retryMost)
		}
	})
}

// Ten failures, and success: what the failure after that waits depends on Forget.
func TestWithoutForgetTheNextFailureWaitsLong(t *testing.T) {
	t.Parallel()
	for forget, want := range map[bool]time.Duration{true: retryFirst, false: 5120 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			queue := newQueue()
			defer queue.ShutDown()
			for range 10 {
				queue.AddRateLimited("web")
				nextAfter(queue)
			}
			if forget {
				queue.Forget("web")
			}
			time.Sleep(7 * 24 * time.Hour)
			queue.AddRateLimited("web")
			if got := nextAfter(queue); got != want {
				t.Errorf("forget %t: it came after %s, want %s", forget, got, want)
			}
		})
	}
}

func TestFiveRetriesAreOverSoon(t *testing.T) {
	t.Parallel()
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMost)
	var all time.Duration
	for range 5 {
		all += limiter.When("web")
	}
	if all != 155*time.Millisecond {
		t.Errorf("five retries take %s", all)
	}
}

// A thousand keys fail at the same moment, each for the first time.
func TestTheDefaultBucketIsSharedByAllKeys(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limiter           func() workqueue.TypedRateLimiter[int]
		soon, later, last time.Duration // key 100, key 101, key 1000
	}{
		"the default": {workqueue.DefaultTypedControllerRateLimiter[int], retryFirst, 100 * time.Millisecond, 90 * time.Second},
		"Belay's": {func() workqueue.TypedRateLimiter[int] {
			return workqueue.NewTypedItemExponentialFailureRateLimiter[int](retryFirst, retryMost)
		}, retryFirst, retryFirst, retryFirst},
	} {
		synctest.Test(t, func(t *testing.T) {
			queue := workqueue.NewTypedRateLimitingQueue(test.limiter())
			defer queue.ShutDown()
			start, came := time.Now(), map[int]time.Duration{}
			for key := 1; key <= 1000; key++ {
				queue.AddRateLimited(key)
			}
			for range 1000 {
				key, _ := queue.Get()
				came[key] = time.Since(start).Round(time.Millisecond)
				queue.Done(key)
				queue.Forget(key) // gives nothing back to the bucket
			}
			if came[100] != test.soon || came[101] != test.later || came[1000] != test.last {
				t.Errorf("%s: key 100 came after %s, 101 after %s, 1000 after %s; want %s, %s, %s", name,
					came[100], came[101], came[1000], test.soon, test.later, test.last)
			}
			queue.AddRateLimited(1001)
			if name == "the default" {
				if _, _ = queue.Get(); time.Since(start).Round(time.Millisecond) != test.last+test.later {
					t.Errorf("the next key came after %s", time.Since(start))
				}
			}
		})
	}
}
