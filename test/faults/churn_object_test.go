package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// healthy are tags of images that work, and ill those of images that cannot be found good, each failing its own way: none of them is
// available for as long as soakSeconds below.
var (
	healthy = []string{"good", "slow"}
	ill     = []string{"crash", "missing", "flap", "unready", "badconfig", "sicken"}
)

// The guard of all objects.
const (
	soakSeconds, stuckSeconds, deadlineSeconds, maxRestarts = 10, 10, 30, 1
	keptRevisions                                           = 2
)

// object is a GuardedDeployment, or a Deployment that is guarded in place, and what was done to it.
type object struct {
	*scene         // of one phase
	home    *scene // of all
	of      *churn
	number  int
	inPlace bool
	random  *rand.Rand

	versions int      // how many there were
	asked    []string // versions since it was made last
	fails    []string // versions that can only fail, as often as they were asked for
	paused   bool

	good   string // what is asked for at the end, and found good
	bad    string // what half of them are asked for then
	atRest int64  // the generation of the Deployment when all was good
}

// use has this test wait for it and fail.
func (o *object) use(t *testing.T) {
	if o.home == nil {
		o.home = openScene(o.of.T)
	}
	o.scene = &scene{T: t, namespace: o.home.namespace}
}

// version returns a new version, with one of these tags.
func (o *object) version(tags []string) string {
	o.versions++
	return strconv.Itoa(o.versions) + "-" + tags[o.random.IntN(len(tags))]
}

// does returns the tag that is in the name of a version.
func does(version string) string {
	_, tag, _ := strings.Cut(version, "-")
	return tag
}

// spread waits a random time, so that what is done to each object once keeps the pace of all together.
func (o *object) spread() { time.Sleep(time.Duration(o.random.Int64N(int64(o.of.interval)))) }

func (o *object) begin() {
	o.spread()
	version := o.make()
	if o.inPlace {
		o.awaitGoodSet(version)
		return
	}
	o.awaitGood(version, 2)
}

// make makes it, of a version that works.
func (o *object) make() (version string) {
	version = o.version(healthy)
	o.asked, o.paused = []string{version}, false
	if !o.inPlace {
		o.create(does(version), version, func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Guard.SoakSeconds, g.Spec.Guard.StuckSeconds, g.Spec.Guard.MaxRestarts = new(int32(soakSeconds)), new(int32(stuckSeconds)), new(int32(maxRestarts))
			g.Spec.ProgressDeadlineSeconds, g.Spec.RevisionHistoryLimit = new(int32(deadlineSeconds)), new(int32(keptRevisions))
		})
		return version
	}
	guard := fmt.Sprintf(`{"soakSeconds": %d, "stuckSeconds": %d, "maxRestarts": %d}`, soakSeconds, stuckSeconds, maxRestarts)
	o.deploy(does(version), version, map[string]string{v1alpha1.GuardAnnotation: guard}, nil)
	o.redeploy(func(d *appsv1.Deployment) {
		d.Spec.ProgressDeadlineSeconds = new(int32(deadlineSeconds))
		metav1.SetMetaDataLabel(&d.ObjectMeta, v1alpha1.GuardedLabel, v1alpha1.GuardedInPlace)
	})
	return version
}

// change is something that people do to an object, and how often in comparison to others.
type change struct {
	name   string
	weight int
	make   func(o *object)
}

var changes = []change{
	{"healthy releases", 6, func(o *object) { o.ask(o.version(healthy)) }},
	{"failing releases", 6, (*object).askFailing},
	{"asked again", 3, (*object).askAgain},
	{"scaled", 3, func(o *object) {
		fewest := 0
		if o.inPlace { // At zero nothing is held, and the clean-up may take the good one.
			fewest = 1
		}
		o.set(int32(fewest+o.random.IntN(4-fewest)), o.paused, "")
	}},
	{"paused", 3, func(o *object) { o.set(-1, true, "") }},
	{"restarted", 2, (*object).restart},
	{"made anew", 1, (*object).makeAnew},
}

// churn changes it at random until the end. A change that would come later is not made.
func (o *object) churn(end time.Time) {
	total := 0
	for _, c := range changes {
		total += c.weight
	}
	for {
		wait := time.Duration(o.random.Int64N(2 * int64(o.of.interval))) // The pace is what they come to together.
		if time.Now().Add(wait).After(end) {
			return
		}
		time.Sleep(wait)
		if o.paused && o.random.IntN(2) == 0 {
			o.set(-1, false, "")
			o.of.count("unpaused")
			continue
		}
		n := o.random.IntN(total)
		for _, c := range changes {
			if n -= c.weight; n < 0 {
				c.make(o)
				o.of.count(c.name)
				break
			}
		}
	}
}

// set has it scaled, unless replicas is negative, paused or not, and ask for another version, unless that is empty.
func (o *object) set(replicas int32, paused bool, version string) {
	o.Helper()
	o.paused = paused
	if !o.inPlace {
		o.change(func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Paused = paused
			if replicas >= 0 {
				g.Spec.Replicas = &replicas
			}
			if version != "" {
				g.Spec.Template = template(does(version), version)
			}
		})
		return
	}
	o.redeploy(func(d *appsv1.Deployment) {
		d.Spec.Paused = paused
		if replicas >= 0 {
			d.Spec.Replicas = &replicas
		}
		if version != "" {
			d.Spec.Template = template(does(version), version)
		}
	})
}

// ask asks for a version.
func (o *object) ask(version string) {
	o.Helper()
	if slices.Contains(ill, does(version)) {
		o.fails = append(o.fails, version)
	}
	o.asked = append(o.asked, version)
	o.set(-1, o.paused, version)
}

// askFailing asks for what fails, if there is something to go back to.
func (o *object) askFailing() {
	tags := healthy
	if o.canGoBack() {
		tags = ill
	}
	o.ask(o.version(tags))
}

// askAgain asks for what was asked for before, good or not.
func (o *object) askAgain() {
	version := o.asked[o.random.IntN(len(o.asked))]
	if o.canGoBack() || slices.Contains(healthy, does(version)) {
		o.ask(version)
	}
}

// canGoBack reports whether something has been found good.
func (o *object) canGoBack() bool {
	v := cluster.observer.now(o.namespace)
	if !o.inPlace {
		return v.guarded != nil && v.guarded.Status.GoodRevision != ""
	}
	for _, set := range v.sets {
		if isGood(set) {
			return true
		}
	}
	return false
}

// restart is what "kubectl rollout restart" does. In place that asks for the template again, with one more annotation.
func (o *object) restart() {
	if cluster.observer.now(o.namespace).deployment == nil {
		return
	}
	if asked := o.asked[len(o.asked)-1]; o.inPlace && slices.Contains(ill, does(asked)) {
		o.fails = append(o.fails, asked)
	}
	o.redeploy(func(d *appsv1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, restartedAt, time.Now().Format(time.RFC3339Nano))
	})
}

// makeAnew deletes it and, when all of it is gone, makes another one of the same name.
func (o *object) makeAnew() {
	o.remove(o.inPlace)
	o.make()
}

// plus is what versions of it end with at the moment: with a plus, if it was restarted.
func (o *object) plus() string {
	if d := cluster.observer.now(o.namespace).deployment; d != nil && !o.inPlace && strings.HasSuffix(versionOf(d.Spec.Template), "+") {
		return "+"
	}
	return ""
}

// settle asks for a version that works, which has to be found good.
func (o *object) settle() {
	o.spread()
	o.good = o.version(healthy)
	o.set(2, false, o.good)
	if o.inPlace {
		o.awaitGoodSet(o.good)
	} else {
		o.awaitGood(o.good+o.plus(), 2)
	}
	o.atRest = cluster.observer.now(o.namespace).deployment.Generation
}

// failHalf asks every other one for what fails, which has to be taken back.
func (o *object) failHalf() {
	if o.number%2 == 0 {
		return
	}
	o.spread()
	o.bad = o.version(ill)
	o.ask(o.bad)
	if o.inPlace {
		o.awaitHeld(o.bad, o.good)
		return
	}
	o.awaitBack(o.good+o.plus(), 2)
}
