package rollout

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The package comment has the rows of the table, in their order.
func TestRows_AreDocumented(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, line := range regexp.MustCompile(`(?m)^//\t([a-z]+(?: [a-z]+)*)  +\S`).FindAllSubmatch(source, -1) {
		documented = append(documented, string(line[1]))
	}
	if documented = documented[1:]; !slices.Equal(documented, Rows()) { // without the heading
		t.Errorf("doc.go has another table (-rows +doc.go):\n%s", cmp.Diff(Rows(), documented))
	}
}

// views returns every oneOf-th of the enumerated views, as it is at first, and some that are not among them.
func views() []*scene {
	views := []*scene{
		asking("v1").with(func(s *scene) { s.DeploymentLive = false }),
		brokenTemplate(asking("v2")),
		brokenTemplate(asking("v2").knows("v1", 1, good).runningName("v1").pause()),
		asking("v2").knows("v1", 1, good).runningName("v1").knows("v2", 2, failed).token("!").retries(1),
		asking("v2").knows("v1", 3, good).runningName("v1").knows("v2", 2, failed).token("!"),
		asking("v2").knows("v1", 1, good).runningName("v1").with(func(s *scene) {
			s.Revisions[0].Labels = nil
			s.Deployment.DeletionTimestamp = &metav1.Time{Time: noon}
		}),
		asking("v2").knows("v1", 1, good).runningName("v1").pause().with(func(s *scene) { s.Revisions[0].Labels = nil }),
	}
	total := 1
	for _, c := range choices {
		total *= len(c)
	}
	for view := 0; view < total; view += *oneOf {
		s := asking("v2")
		rest := view
		for _, c := range choices {
			c[rest%len(c)](s)
			rest /= len(c)
		}
		if s.Guarded.DeletionTimestamp == nil {
			views = append(views, s)
		}
	}
	return views
}

// brokenTemplate gives the spec a template that cannot be recorded.
func brokenTemplate(s *scene) *scene {
	s.Guarded.Spec.Template.CreationTimestamp = metav1.NewTime(time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*60*60)))
	return s
}

// exclusive are the neighbours in the table of which one never applies where the other is reached.
var exclusive = map[[2]string]string{
	{"live read", "name taken"}:     "there is a Deployment, or there is none",
	{"adoption", "deletion"}:        "a name is taken while another's Deployment of it is being deleted",
	{"unknown", "request"}:          "what is not recorded has no number",
	{"automatic retry", "unjudged"}: "only what failed is tried again",
	{"unjudged", "good"}:            "a verdict, or none",
}

// Every row is taken, and the order of any two neighbours matters, or they exclude each other.
func TestRows_Order(t *testing.T) {
	t.Parallel()
	taken, both, differ := map[string]bool{}, map[int]bool{}, map[int]bool{}
	for _, view := range views() {
		s := newState(view.Observed)
		first := s.firstRow()
		taken[first.name] = true
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == first.name })
		if i+1 == len(rows) || !rows[i+1].applies(s) {
			continue
		}
		both[i] = true
		if !differ[i] {
			one, other := s.decide(first), newState(view.Observed).decide(&rows[i+1])
			other.row = one.row
			differ[i] = !reflect.DeepEqual(one, other)
		}
	}
	for i, row := range rows {
		if !taken[row.name] {
			t.Errorf("no view takes the row %q", row.name)
		}
		if i+1 == len(rows) {
			break
		}
		pair := [2]string{row.name, rows[i+1].name}
		switch why, excluded := exclusive[pair]; {
		case excluded && both[i]:
			t.Errorf("%q both apply, although: %s", pair, why)
		case !excluded && !differ[i]:
			t.Errorf("the order of %q makes no difference in any view (both apply in one: %t)", pair, both[i])
		}
	}
}
