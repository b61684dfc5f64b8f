package rollout

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestRevisionNames(t *testing.T) {
	raw := canonical(recorded(newGuarded("v1"), 1).Data.Raw)
	for _, owner := range []string{
		"web", "web.v2", strings.Repeat("a", 253),
		strings.Repeat("a", 241) + "." + strings.Repeat("b", 11), // cut right after the dot
		strings.Repeat("a", 239) + "-.-" + strings.Repeat("b", 11),
	} {
		g := newGuarded("v1")
		g.Name = owner
		names := revisionNames(g, raw)
		for _, name := range names {
			if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
				t.Errorf("%s: %v", name, problems)
			}
			if !strings.HasPrefix(name, strings.TrimRight(owner[:min(len(owner), 239)], ".-")) {
				t.Errorf("%s does not tell its owner %s", name, owner)
			}
		}
		if len(slices.Compact(slices.Sorted(slices.Values(names)))) != maxNames {
			t.Errorf("names are not all different: %v", names)
		}
		reborn := g.DeepCopy()
		reborn.UID = "another"
		for _, name := range revisionNames(reborn, raw) {
			if slices.Contains(names, name) {
				t.Errorf("another life's revision has the same name %s", name)
			}
		}
	}
}

// The names are stored. If this test fails, every revision that is stored is not proven any more.
func TestRevisionNames_NeverChange(t *testing.T) {
	if got := revisionName("web", "uid", []byte(`{"a":1}`), 0); got != "web-e50f06a477" {
		t.Errorf("got %s", got)
	}
}

func TestRevisionNames_InOrder(t *testing.T) {
	g := newGuarded("v1")
	r := recorded(g, 1)
	names := []string{r.Name}
	for r.Name = OtherName(g, r); r.Name != ""; r.Name = OtherName(g, r) {
		if !IsRevisionOf(g, r) {
			t.Errorf("%s is not proven under its other name", r.Name)
		}
		names = append(names, r.Name)
	}
	if diff := cmp.Diff(revisionNames(g, canonical(r.Data.Raw)), names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	r.Name = "somebody-elses"
	if got := OtherName(g, r); got != "" {
		t.Errorf("a name that is none of its own is followed by %q", got)
	}
}

// The API server may store the data with other spaces and in another order: the name still fits.
func TestCanonicalData(t *testing.T) {
	want := canonical([]byte(`{"a":{"x":1,"y":[1,2]},"b":9007199254740993,"c":"<&>"}`))
	for _, same := range []string{
		`{"b":9007199254740993,"c":"<&>","a":{"y":[1,2],"x":1}}`,
		" {\n\t\"c\" : \"\\u003c&>\", \"a\":{\"x\":1, \"y\":[ 1,2 ]},\"b\":9007199254740993}\n",
	} {
		if diff := cmp.Diff(string(want), string(canonical([]byte(same)))); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	for _, other := range []string{
		`{"a":{"x":1,"y":[2,1]},"b":9007199254740993,"c":"<&>"}`,
		`{"a":{"x":1,"y":[1,2]},"b":9007199254740992,"c":"<&>"}`, // the same as a float64
		`{`,
	} {
		if string(canonical([]byte(other))) == string(want) {
			t.Errorf("%s counts as the same", other)
		}
	}
}

func TestDecode_BelievesOnlyWhatFits(t *testing.T) {
	g := newGuarded("v1")
	for name, row := range map[string]struct {
		change func(*appsv1.ControllerRevision)
		proven bool
	}{
		"as it was written":  {func(*appsv1.ControllerRevision) {}, true},
		"in another order":   {func(r *appsv1.ControllerRevision) { r.Data.Raw = reordered(r.Data.Raw) }, true},
		"another number":     {func(r *appsv1.ControllerRevision) { r.Revision = 99 }, true},
		"another verdict":    {func(r *appsv1.ControllerRevision) { r.Annotations = map[string]string{"a": "b"} }, true},
		"other content":      {func(r *appsv1.ControllerRevision) { r.Data = recorded(newGuarded("v2"), 1).Data }, false},
		"more content":       {func(r *appsv1.ControllerRevision) { r.Data.Raw = append([]byte(`{"a":1,`), r.Data.Raw[1:]...) }, false},
		"two contents":       {func(r *appsv1.ControllerRevision) { r.Data.Raw = append(slices.Clone(r.Data.Raw), r.Data.Raw...) }, false},
		"no content":         {func(r *appsv1.ControllerRevision) { r.Data.Raw = nil }, false},
		"another name":       {func(r *appsv1.ControllerRevision) { r.Name += "0" }, false},
		"another owner":      {func(r *appsv1.ControllerRevision) { r.OwnerReferences[0].UID = "another" }, false},
		"no owner":           {func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil }, false},
		"an owner, no chief": {func(r *appsv1.ControllerRevision) { r.OwnerReferences[0].Controller = nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := recorded(g, 1)
			row.change(r)
			if got := IsRevisionOf(g, r); got != row.proven {
				t.Errorf("proven: %t", got)
			}
		})
	}
}

// A key that is there twice means one thing to who hashes and another to who decodes, unless both read the same.
// An annotation that does not parse, or counts from less than 1, says nothing of the attempt.
func TestDecode_AttemptNumber(t *testing.T) {
	for annotation, want := range map[string]int{`{"n":3}`: 3, `{"n":0}`: 1, `{"n":-1}`: 1, `{}`: 1, `{"n":3`: 1, `{"n":3,"token":5}`: 1} {
		for _, key := range []string{v1alpha1.FailureAnnotation, v1alpha1.AttemptAnnotation} {
			g := newGuarded("v1")
			r := recorded(g, 1)
			metav1.SetMetaDataAnnotation(&r.ObjectMeta, key, annotation)
			if got := decode(g, r).Attempt.Number; got != want {
				t.Errorf("%s: %s: attempt %d, want %d", key, annotation, got, want)
			}
		}
	}
}

func TestDecode_DoubledKeys(t *testing.T) {
	g := newGuarded("v1")
	r := recorded(g, 1)
	r.Data.Raw = []byte(strings.Replace(string(r.Data.Raw), `{"spec":`, `{"spec":{"template":{"spec":{"hostNetwork":true}}},"spec":`, 1))
	if got := decode(g, r); got != nil && got.Template().Spec.HostNetwork {
		t.Error("the host's network was smuggled in")
	}
}

func reordered(raw []byte) []byte {
	var object struct {
		Spec struct {
			Template map[string]any `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		panic(err)
	}
	spec, _ := json.MarshalIndent(object.Spec.Template["spec"], " ", "  ")
	meta, _ := json.Marshal(object.Spec.Template["metadata"])
	return []byte(`{ "spec":{"template":{"spec":` + string(spec) + `, "metadata" : ` + string(meta) + `}}}`)
}

// A revision is found by what its template means: the bytes change when a library is upgraded.
func TestFind_ByMeaning(t *testing.T) {
	g := newGuarded("v1")
	g.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("500m")}
	h := newHistory(g, []*appsv1.ControllerRevision{recorded(g, 1)})

	same := g.Spec.Template.DeepCopy()
	same.Annotations = map[string]string{}
	same.Spec.Volumes = []corev1.Volume{}
	same.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("0.5")
	if found, err := h.find(same); found == nil {
		t.Error("the same template, said otherwise, is not found", err)
	}
	other := g.Spec.Template.DeepCopy()
	other.Annotations = map[string]string{"restart": "now"}
	if found, _ := h.find(other); found != nil {
		t.Error("another template is found")
	}
}

func TestHistory(t *testing.T) {
	s := asking("v1").knows("v3", 3, failed).knows("v1", 1, good).knows("v4", 4, good).knows("v2", 2, good).knows("v5", 5, unjudged)
	h := newHistory(s.Guarded, s.Revisions)
	images := func(revisions []*Revision) (all []string) {
		for _, r := range revisions {
			all = append(all, image(r))
		}
		return all
	}
	if diff := cmp.Diff([]string{"v1", "v2", "v3", "v4", "v5"}, images(h.revisions)); diff != "" {
		t.Errorf("oldest first (-want +got):\n%s", diff)
	}
	if got := h.newestGood(nil); image(got) != "v4" {
		t.Errorf("last good: %s", image(got))
	}
	if got := h.newestGood(h.named(s.revision("v4").Name)); image(got) != "v2" {
		t.Errorf("last good but v4: %s", image(got))
	}
	if h.highest() != 5 || (history{}).highest() != 0 || h.named("none") != nil || (history{}).newestGood(nil) != nil {
		t.Error("highest, named or lastGood")
	}
	if diff := cmp.Diff(s.revision("v1").ControllerRevision, h.surplus(3, h.named(s.revision("v4").Name))[0]); diff != "" {
		t.Errorf("surplus (-want +got):\n%s", diff)
	}
	if len(h.surplus(5)) != 0 || len(h.surplus(9)) != 0 || len(h.surplus(0)) != 5 {
		t.Error("surplus at the limits")
	}
}

func TestVerdicts(t *testing.T) {
	for _, row := range []struct {
		is                     verdict
		unjudged, good, failed bool
		attempt                Attempt
	}{
		{unjudged, true, false, false, Attempt{Number: 1}},
		{good, false, true, false, Attempt{Number: 1}},
		{failedWith("!"), false, false, true, Attempt{Number: 1, Token: "!"}},
		{tried(2, "?", good), true, false, false, Attempt{Number: 2, Token: "?"}},
		{tried(3, "?", failed), true, false, false, Attempt{Number: 3, Token: "?"}},
		// What a person wrote there and does not parse says nothing.
		{spoilt(good, v1alpha1.FailureAnnotation, "{"), false, true, false, Attempt{Number: 1}},
		{spoilt(failed, v1alpha1.FailureAnnotation, "{"), false, false, true, Attempt{Number: 1}},
		{spoilt(failed, v1alpha1.AttemptAnnotation, "?"), true, false, false, Attempt{Number: 1}},
		{spoilt(unjudged, v1alpha1.VerdictAnnotation, "excellent"), true, false, false, Attempt{Number: 1}},
	} {
		r := asking("v1").knows("v1", 1, row.is).revision("v1")
		if r.Unjudged() != row.unjudged || r.Good() != row.good || r.Failed() != row.failed || r.Attempt != row.attempt {
			t.Errorf("%v: unjudged %t, good %t, failed %t, attempt %v", r.Annotations, r.Unjudged(), r.Good(), r.Failed(), r.Attempt)
		}
	}
}

// An attempt under way began when the server says that the revision was last written.
func TestAttempt_Since(t *testing.T) {
	written := func(is verdict) verdict {
		return func(r *Revision) *appsv1.ControllerRevision {
			object := is(r).DeepCopy()
			object.ManagedFields = []metav1.ManagedFieldsEntry{managed("belay", 2*time.Minute, "{}"), {Manager: "belay"}, managed("kubectl", time.Minute, "{}")}
			return object
		}
	}
	for _, row := range []struct {
		is   verdict
		want metav1.Time
	}{
		{written(tried(2, "!", failed)), *managed("", time.Minute, "").Time},
		{written(spoilt(failed, v1alpha1.AttemptAnnotation, "?")), *managed("", time.Minute, "").Time},
		{tried(2, "!", failed), metav1.Time{}},
		{written(failed), metav1.Time{}},
		{written(unjudged), metav1.Time{}},
	} {
		r := asking("v1").knows("v1", 1, row.is).revision("v1")
		if !r.Attempt.Since.Equal(&row.want) {
			t.Errorf("%v: since %s, want %s", r.Annotations, r.Attempt.Since, row.want)
		}
	}
}

// A cached revision has a part of its managed fields: a write that stated it would take the rest away.
func TestWrites_LeaveTheManagedFields(t *testing.T) {
	r := asking("v1").knows("v1", 1, failed).revision("v1")
	r.ManagedFields = []metav1.ManagedFieldsEntry{managed("belay", time.Minute, "{}")}
	for name, written := range map[string]*appsv1.ControllerRevision{
		"request": withRequest(r, 2, &Attempt{Number: 2, Since: metav1.NewTime(noon)}), "label": WithLabel(r.ControllerRevision),
		"good": withVerdict(r, nil), "failed": withVerdict(r, &Failure{Attempt: Attempt{Number: 2, Since: metav1.NewTime(noon)}}),
	} {
		if written.ManagedFields != nil {
			t.Errorf("%s: states the managed fields %v", name, written.ManagedFields)
		}
		for _, key := range []string{v1alpha1.AttemptAnnotation, v1alpha1.FailureAnnotation} {
			if strings.Contains(strings.ToLower(written.Annotations[key]), "since") {
				t.Errorf("%s: states %s", name, written.Annotations[key])
			}
		}
	}
	if len(r.ManagedFields) != 1 {
		t.Error("the revision that was observed is changed")
	}
}

func spoilt(is verdict, key, value string) verdict {
	return func(r *Revision) *appsv1.ControllerRevision {
		object := is(r).DeepCopy()
		metav1.SetMetaDataAnnotation(&object.ObjectMeta, key, value)
		return object
	}
}

// The verdict takes away what was there of an earlier one, and nothing else.
func TestWithVerdict_ReplacesTheOneBefore(t *testing.T) {
	r := asking("v1").knows("v1", 4, spoilt(tried(2, "!", failed), "a", "theirs")).revision("v1")
	before := r.DeepCopy()
	if diff := cmp.Diff(map[string]string{"a": "theirs", v1alpha1.VerdictAnnotation: "good"}, withVerdict(r, nil).Annotations); diff != "" {
		t.Errorf("good (-want +got):\n%s", diff)
	}
	f := &Failure{Attempt: Attempt{Number: 2, Token: "!"}, Failure: v1alpha1.Failure{Reason: "CrashLoop", ExitCode: new(int32(1))}}
	want := map[string]string{"a": "theirs", v1alpha1.VerdictAnnotation: "failed",
		v1alpha1.FailureAnnotation: `{"n":2,"token":"!","reason":"CrashLoop","exitCode":1,"time":null}`}
	if diff := cmp.Diff(want, withVerdict(r, f).Annotations); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, r.ControllerRevision); diff != "" {
		t.Errorf("the revision that was observed is changed (-was +is):\n%s", diff)
	}
}
