package fakecluster

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/internal/expect"
)

func TestNumber(t *testing.T) {
	numbered := func(number string) *appsv1.ReplicaSet {
		set := &appsv1.ReplicaSet{}
		if number != "" {
			set.Annotations = map[string]string{RevisionAnnotation: number}
		}
		return set
	}
	for name, row := range map[string]struct {
		current string
		others  []string
		want    string
	}{
		"the first":                        {"", nil, "1"},
		"a new one":                        {"", []string{"2", "10", "9"}, "11"},
		"the highest":                      {"3", []string{"1", "2"}, "3"},
		"an older one is the current":      {"1", []string{"2", "3"}, "4"},
		"the others' highest was deleted":  {"7", []string{"1", "2"}, "7"},
		"another one has its number":       {"2", []string{"2"}, "3"},
		"an older one has none":            {"", []string{"", "x", "4"}, "5"},
		"what it has is not a number":      {"x", []string{"4"}, "x"},
		"only what others have is garbage": {"1", []string{"x"}, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			var others []*appsv1.ReplicaSet
			for _, number := range row.others {
				others = append(others, numbered(number))
			}
			current := numbered(row.current)
			changed := Number(current, others)
			if got := current.Annotations[RevisionAnnotation]; got != row.want || changed != (row.want != row.current) {
				t.Errorf("number %q, changed %t, want %q", got, changed, row.want)
			}
		})
	}
}

// numbersOf returns the number of the Deployment web, then that of the ReplicaSet of its template.
func numbersOf(w *World) []string {
	d, _ := Read[*appsv1.Deployment](w, "web")
	set, _ := Read[*appsv1.ReplicaSet](w, "web-"+templateHash(d))
	return []string{d.Annotations[RevisionAnnotation], set.Annotations[RevisionAnnotation]}
}

func TestNode_NumbersReplicaSets(t *testing.T) {
	In(t, func(w *World) {
		setImage := func(image string) {
			Edit(w, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
			w.Pass(10 * time.Second)
		}
		Add(w, DeploymentOf(Webshop("web", "web:1")))
		w.Pass(10 * time.Second)
		expect.Same(t, "the first", []string{"1", "1"}, numbersOf(w))
		setImage("web:2")
		expect.Same(t, "the second", []string{"2", "2"}, numbersOf(w))
		setImage("web:1")
		expect.Same(t, "the first again", []string{"3", "3"}, numbersOf(w))
		d, _ := Read[*appsv1.Deployment](w, "web")
		if d.Generation != 3 || d.Status.ObservedGeneration != 3 {
			t.Errorf("generation %d, observed %d, want 3: the number is no change of the Deployment", d.Generation, d.Status.ObservedGeneration)
		}
		written := len(w.changes)
		w.Pass(time.Minute)
		if n := len(w.changes) - written; n > 0 {
			t.Errorf("%d writes while nothing changes", n)
		}
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, RevisionAnnotation, "2")
		Edit(w, "web", func(live *appsv1.Deployment) { live.Annotations = d.Annotations })
		w.Pass(10 * time.Second)
		expect.Same(t, "after somebody has changed it", []string{"3", "3"}, numbersOf(w))
	})
}
