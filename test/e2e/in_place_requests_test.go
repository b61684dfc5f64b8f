package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/belay-dev/belay/test/auditlog"
)

var heldFlag = flag.Duration("held", 5*time.Second, "how long the requests of kube-controller-manager are counted while something is held")

// rolling has the Deployment replaced in this way: numbers of pods, or percentages.
func rolling(surge, unavailable string) change {
	return func(d *appsv1.Deployment) {
		s, u := intstr.Parse(surge), intstr.Parse(unavailable)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}}
	}
}

// auditEnd returns where the audit log ends now.
func (n *namespace) auditEnd() int64 {
	n.Helper()
	info, err := os.Stat(cluster.audit.path)
	if err != nil {
		n.Fatal(err)
	}
	return info.Size()
}

// controllersAsked returns the writes of kube-controller-manager of a Deployment, and of what has its name in front, since the audit log
// ended there; without Events, which come late.
func (p *inPlace) controllersAsked(from int64) (asked []string) {
	p.Helper()
	_, err := auditlog.Read(cluster.audit.path, from, `"userAgent":"kube-controller-manager/`, func(line []byte) error {
		var w write
		if err := json.Unmarshal(line, &w); err != nil {
			return err
		}
		if name := w.ObjectRef.Name; w.ObjectRef.Resource != "events" && w.ObjectRef.Namespace == p.namespace.name && (name == p.name || strings.HasPrefix(name, p.name+"-") || strings.HasPrefix(name, p.name+".")) {
			asked = append(asked, w.String())
		}
		return nil
	})
	if err != nil {
		p.Fatal(err)
	}
	return asked
}

// With its deadline long past, kube-controller-manager is at rest in every state, and Belay is.
func TestInPlace_NoLoop(t *testing.T) {
	t.Parallel()
	noDeadline := func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = new(int32(math.MaxInt32)) }
	for state, reach := range map[string]func(*namespace) *inPlace{
		"good":                      func(n *namespace) *inPlace { return n.guarded("web", template(good, "1")) },
		"first release failed":      (*namespace).failedFirst,
		"left":                      (*namespace).left,
		"rolled back":               func(n *namespace) *inPlace { return n.rolledBack("web") },
		"rolled back, scaled":       (*namespace).rolledBackAndScaled,
		"rolled back, zero":         (*namespace).rolledBackAtZero,
		"rolled back from the soak": (*namespace).rolledBackFromTheSoak,
		"rolled back, Recreate":     func(n *namespace) *inPlace { return n.rolledBack("web", recreates) },
		"rolled back from the soak, Recreate, no room": (*namespace).rolledBackWithoutRoom,
		"rolled back, maxSurge 0":                      func(n *namespace) *inPlace { return n.rolledBack("web", rolling("0", "25%")) },
		"rolled back, no deadline":                     func(n *namespace) *inPlace { return n.rolledBack("web", noDeadline) },
		"rolled back, another strategy": func(n *namespace) *inPlace {
			p := n.rolledBack("web")
			p.update(recreates)
			p.awaitSets("is held as Recreate needs it", func(_ *appsv1.Deployment, _ *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
				return held(others[0]) == "4"
			})
			return p
		},
	} {
		t.Run(state, func(t *testing.T) {
			n := newInPlace(t)
			if !n.counting() {
				t.Skip("this counts in the audit log")
			}
			began := n.auditEnd()
			reach(n).checkAtRest(state, began)
		})
	}
}

// checkAtRest waits until the deadline is past, and makes sure that then nobody asks for anything for a while.
func (p *inPlace) checkAtRest(state string, began int64) {
	p.Helper()
	p.writesAtRest() // That takes longer than the deadline.
	var made int
	p.within(2*patience+*heldFlag, "kube-controller-manager is at rest for "+heldFlag.String(), func(context.Context) (bool, error) {
		made = len(p.writes())
		from := p.auditEnd()
		time.Sleep(*heldFlag)
		return len(p.controllersAsked(from)) == 0, nil
	})
	if now := p.writes(); len(now) > made {
		p.Errorf("Belay writes at rest: %v", now[made:])
	}
	const most = 150 // A loop makes as many in fifteen seconds.
	asked := p.controllersAsked(began)
	figures.count("in place: requests of kube-controller-manager, "+state, len(asked), most)
	if len(asked) > most {
		p.Errorf("kube-controller-manager asked %d times in all, want at most %d:\n%s", len(asked), most, strings.Join(asked, "\n"))
	}
}

func (n *namespace) failedFirst() *inPlace {
	p := n.plain("web", template(badConfig, "1"), asksInPlace)
	p.awaitFailed()
	return p
}

// left has a failed release that is not taken back.
func (n *namespace) left() *inPlace {
	p := n.guarded("web", template(good, "1"), settings(`{"onFailure": "Hold", "soakSeconds": 2, "stuckSeconds": 5}`))
	p.release(template(badConfig, "2"))
	p.awaitFailed()
	return p
}

func (n *namespace) rolledBackAtZero() *inPlace {
	p := n.rolledBack("web")
	p.update(size(0))
	p.awaitSets("has no pods", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, others []*appsv1.ReplicaSet) bool {
		return is(current, 0) && held(current) == "" && is(others[0], 0)
	})
	return p
}

func (n *namespace) rolledBackAndScaled() *inPlace {
	p := n.rolledBack("web")
	for _, replicas := range []int32{6, 3} {
		p.update(size(replicas))
		p.awaitRolledBack()
	}
	return p
}

// rolledBackFromTheSoak is rolledBack with a release that had been complete.
func (n *namespace) rolledBackFromTheSoak() *inPlace {
	p := n.guarded("web", template(good, "1"), settings(`{"soakSeconds": 20, "stuckSeconds": 5}`))
	p.release(template(sicken, "2"))
	p.awaitRolledBack()
	return p
}

// rolledBackWithoutRoom is rolledBackFromTheSoak with a good release whose pods cannot come: what was complete is not complete any more.
func (n *namespace) rolledBackWithoutRoom() *inPlace {
	p := n.guarded("web", template(good, "1"), recreates, settings(`{"soakSeconds": 20, "stuckSeconds": 5}`))
	p.release(template(sicken, "2"))
	p.awaitDeployment("is complete", func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == *d.Spec.Replicas && d.Status.AvailableReplicas == *d.Spec.Replicas
	})
	n.setQuota("pods", "0")
	p.awaitSets("is held", func(_ *appsv1.Deployment, current *appsv1.ReplicaSet, _ []*appsv1.ReplicaSet) bool {
		return held(current) == "0"
	})
	return p
}

// An autoscaler scales what is good, whatever is asked for.
func TestInPlace_Autoscaler(t *testing.T) {
	n := newInPlace(t)
	web := n.guarded("web", template(good, "1"), size(1))
	seen := web.watchReplicas()
	web.autoscale("Deployment", 3, 10)
	web.awaitAvailable(3)
	web.awaitGood()
	web.release(template(crash, "2"))
	web.awaitRolledBack()
	web.autoscale("Deployment", 5, 10)
	web.awaitDeployment("has 5 replicas", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 5 })
	web.awaitRolledBack()
	web.autoscale("Deployment", 1, 2)
	web.awaitDeployment("has 2 replicas", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 2 })
	web.awaitRolledBack()
	web.checkStatusFails()
	web.release(template(good, "3"))
	web.awaitGood()
	if numbers := seen(); !slices.Equal(numbers, []int32{1, 3, 5, 2}) {
		t.Errorf("the Deployment was scaled to %d, want 1, 3, 5 and 2 and nothing in between", numbers)
	}
}
