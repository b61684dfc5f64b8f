package faults

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// story is what people do, with what has to become of it whatever is disturbed.
type story struct {
	name string
	// before prepares it; what Belay does then is neither numbered nor disturbed.
	before func(s *scene)
	told   func(s *scene)
	// runs has the versions that the Deployment's template has to have, one after the other, and nothing else. With a plus it is restarted.
	runs string
	// gaps says that the observer may miss a state that is there for a moment only: what was stored first cannot be told then.
	gaps bool
	// fails has the versions that have to be found failed, as often as each is in it.
	fails string
}

var stories = []story{
	{name: "good", runs: "1 2", told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.release("good", "2")
		s.awaitGood("2", 2)
	}},
	{name: "rollback", runs: "1 2 1 3", fails: "2", told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.release("crash", "2")
		s.awaitBack("1", 2)
		s.release("good", "3")
		s.awaitGood("3", 2)
	}},
	{name: "asked-again", runs: "1 2 1 2 1", fails: "2 2", told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.release("missing", "2")
		s.awaitBack("1", 2)
		s.release("good", "1")
		s.awaitGood("1", 2)
		s.release("missing", "2")
		s.awaitBack("1", 2)
	}},
	{name: "restart", runs: "1 1+ 1", fails: "1+", told: func(s *scene) {
		s.create("once", "1")
		s.awaitGood("1", 2)
		s.redeploy(restarted)
		s.await("the restart is undone", func() bool {
			v := cluster.observer.now(s.namespace)
			return ready(v.guarded).Reason == v1alpha1.ReasonRolledOut && v.guarded.Status.Failure != nil && v.guarded.Status.Failure.ReplicaSet != "" &&
				runsAlone(v.deployment, "1", 2) && v.guarded.Status.AvailableReplicas == 2
		})
	}},
	{name: "adoption", runs: "1 2 1", fails: "2", before: func(s *scene) {
		s.deploy("good", "1", map[string]string{v1alpha1.AdoptAnnotation: name}, nil)
	}, told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.release("crash", "2")
		s.awaitBack("1", 2)
	}},
	{name: "scale", runs: "1 2 1", fails: "2", told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.release("crash", "2")
		s.scale(3)
		s.awaitBack("1", 3)
		s.scale(2)
		s.awaitBack("1", 2)
	}},
	{name: "pause", runs: "1 2", told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.change(func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Paused, g.Spec.Template = true, template("good", "2")
		})
		s.await("it is paused", func() bool {
			return ready(cluster.observer.now(s.namespace).guarded).Reason == v1alpha1.ReasonPaused
		})
		s.change(func(g *v1alpha1.GuardedDeployment) { g.Spec.Paused = false })
		s.awaitGood("2", 2)
	}},
	{name: "made-anew", runs: "1 2 3 2", fails: "3", told: func(s *scene) {
		s.create("good", "1")
		s.awaitGood("1", 2)
		s.remove(false)
		s.create("good", "2")
		s.awaitGood("2", 2)
		s.release("crash", "3")
		s.awaitBack("2", 2)
	}},
	{name: "in-place", runs: "1 2 3", fails: "2", before: func(s *scene) {
		s.deploy("good", "1", map[string]string{v1alpha1.GuardAnnotation: `{"soakSeconds": 2, "stuckSeconds": 5, "maxRestarts": 1}`}, nil)
	}, told: func(s *scene) {
		s.redeploy(func(d *appsv1.Deployment) {
			metav1.SetMetaDataLabel(&d.ObjectMeta, v1alpha1.GuardedLabel, v1alpha1.GuardedInPlace)
		})
		s.awaitGoodSet("1")
		s.redeploy(func(d *appsv1.Deployment) { d.Spec.Template = template("crash", "2") })
		s.awaitHeld("2", "1")
		s.redeploy(func(d *appsv1.Deployment) { d.Spec.Template = template("good", "3") })
		s.awaitGoodSet("3")
	}},
}

// restarted is what "kubectl rollout restart" does to a Deployment.
func restarted(d *appsv1.Deployment) {
	metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, restartedAt, "2026-01-01T00:00:00Z")
}

// remove deletes the GuardedDeployment, or the Deployment that is guarded in place, and waits until nothing of it is left.
func (s *scene) remove(inPlace bool) {
	s.Helper()
	s.insist(func() error {
		v, foreground := cluster.observer.now(s.namespace), metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}
		switch {
		case inPlace && v.deployment != nil && v.deployment.DeletionTimestamp == nil:
			return cluster.kube.AppsV1().Deployments(s.namespace).Delete(s.Context(), name, foreground)
		case !inPlace && v.guarded != nil && v.guarded.DeletionTimestamp == nil:
			return cluster.belay.BelayV1alpha1().GuardedDeployments(s.namespace).Delete(s.Context(), name, foreground)
		}
		return nil
	})
	s.await("all is gone", func() bool {
		v := cluster.observer.now(s.namespace)
		return v.guarded == nil && v.deployment == nil
	})
}

func (s *scene) scale(replicas int32) {
	s.Helper()
	s.change(func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = &replicas })
}

// awaitGoodSet waits until a Deployment that is guarded as it is runs this version alone, found good.
func (s *scene) awaitGoodSet(version string) {
	s.Helper()
	s.await(version+" is good", func() bool {
		v := cluster.observer.now(s.namespace)
		if !runsAlone(v.deployment, version, 2) || v.deployment.Annotations[v1alpha1.FailureAnnotation] != "" {
			return false
		}
		for _, set := range v.sets {
			leftOver := s.late && *set.Spec.Replicas == 0 && versionOf(set.Spec.Template) != version // until Belay sweeps
			if heldAt(set) != "" && !leftOver || versionOf(set.Spec.Template) == version && !isGood(set) {
				return false
			}
		}
		return true
	})
}

// awaitHeld waits until a version of such a Deployment has failed, and another runs alone in its place.
func (s *scene) awaitHeld(failed, instead string) {
	s.Helper()
	s.await(failed+" is held, and "+instead+" runs again", func() bool {
		v := cluster.observer.now(s.namespace)
		if v.deployment == nil || v.deployment.Annotations[v1alpha1.FailureAnnotation] == "" || v.deployment.Status.AvailableReplicas != 2 || v.deployment.Status.Replicas != 2 {
			return false
		}
		runs := false
		for _, set := range v.sets {
			switch versionOf(set.Spec.Template) {
			case failed:
				if heldAt(set) != "0" || set.Status.Replicas != 0 {
					return false
				}
			case instead:
				runs = set.Status.AvailableReplicas == 2
			}
		}
		return runs
	})
}

func isGood(set *appsv1.ReplicaSet) bool {
	return set.Labels[v1alpha1.VerdictLabel] == v1alpha1.VerdictGood+"."+string(set.UID)
}

// heldAt returns the number that the ReplicaSet is held at, empty if it is not.
func heldAt(set *appsv1.ReplicaSet) string {
	number, ours := strings.CutSuffix(set.Labels[v1alpha1.HeldAtLabel], "."+string(set.UID))
	if !ours {
		return ""
	}
	return number
}
