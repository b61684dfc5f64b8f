package evidence

import "time"

// pollInterval is the time between two reads for one object. More rollouts under way stretch it, by pollStretch each, and the pods
// that they read by podStretch each, so that all together read no more than 1/pollStretch objects and 1/podStretch pods a second. A
// hint may bring one read forward.
const pollInterval, pollStretch, podStretch = 3 * time.Second, 20 * time.Millisecond, time.Millisecond

// load is what the reads for many objects take: how many objects, and pods of theirs, are read.
type load struct{ objects, pods int }

// replace replaces a part of the load of what is under way, whoever guards it.
func (r *Reader) replace(before, now load) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.underWay.objects += now.objects - before.objects
	r.underWay.pods += now.pods - before.pods
}

// Interval returns the time between two reads for one object.
func (r *Reader) Interval() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(pollInterval, time.Duration(r.underWay.objects)*pollStretch, time.Duration(r.underWay.pods)*podStretch)
}
