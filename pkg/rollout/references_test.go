package rollout

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// unneeded are the fields that name a ConfigMap or a Secret without which a pod starts all the same, or does not start with it.
var unneeded = map[string]string{
	"ImagePullSecrets":                         "the kubelet tries without",
	"EphemeralContainers":                      "no template can have them",
	"Volumes.VolumeSource.RBD.SecretRef":       "no kubelet has this volume plugin any more",
	"Volumes.VolumeSource.CephFS":              "no kubelet has this volume plugin any more",
	"Volumes.VolumeSource.ScaleIO.SecretRef":   "no kubelet has this volume plugin any more",
	"Volumes.VolumeSource.StorageOS.SecretRef": "no kubelet has this volume plugin any more",
	"Volumes.VolumeSource.Cinder.SecretRef":    "the CSI driver that has taken this over is not given it",
}

// nameFields returns the paths of the fields in a type that hold the name of a ConfigMap or of a Secret.
func nameFields(typ reflect.Type, path []string) (found [][]string) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return nil
	}
	for i := range typ.NumField() {
		field := typ.Field(i)
		path := append(slices.Clone(path), field.Name)
		ofReference := field.Name == "Name" && (typ.Name() == "LocalObjectReference" || typ.Name() == "SecretReference" || typ.Name() == "ObjectReference")
		named := strings.Contains(field.Name, "Secret") || strings.Contains(field.Name, "ConfigMap")
		if field.Type.Kind() == reflect.String && (ofReference || named) {
			found = append(found, path)
			continue
		}
		found = append(found, nameFields(field.Type, path)...)
	}
	return found
}

// setName sets the field at a path to name, in new structs all along, in which all is true that can be.
func setName(value reflect.Value, path []string, name string) {
	switch value.Kind() {
	case reflect.Pointer:
		value.Set(reflect.New(value.Type().Elem()))
		setName(value.Elem(), path, name)
	case reflect.Slice:
		value.Set(reflect.MakeSlice(value.Type(), 1, 1))
		setName(value.Index(0), path, name)
	case reflect.String:
		value.SetString(name)
	case reflect.Struct:
		for i := range value.NumField() {
			if field := value.Field(i); field.Kind() == reflect.Bool {
				field.SetBool(true)
			}
		}
		setName(value.FieldByName(path[0]), path[1:], name)
	}
}

// A new Kubernetes may have new fields. Each is read, or it is said why not.
func TestReferences_NoFieldIsForgotten(t *testing.T) {
	fields, left := nameFields(reflect.TypeFor[corev1.PodSpec](), nil), map[string]bool{}
	for _, path := range fields {
		name := strings.Join(path, ".")
		if prefix := unneededBy(name); prefix != "" {
			left[prefix] = true
			continue
		}
		var spec corev1.PodSpec
		setName(reflect.ValueOf(&spec).Elem(), path, "it")
		kind := KindSecret
		if strings.Contains(name, "ConfigMap") {
			kind = KindConfigMap
		}
		if diff := cmp.Diff([]Reference{{kind, "it"}}, references(&spec)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for prefix := range unneeded {
		if !left[prefix] {
			t.Errorf("there is no %s any more", prefix)
		}
	}
	if len(fields) < 27 { // as many as in v0.37.2, or the search has gone blind
		t.Errorf("only %d fields name ConfigMaps or Secrets: %v", len(fields), fields)
	}
}

// unneededBy returns the entry of unneeded that a field belongs to, empty if there is none.
func unneededBy(field string) string {
	for prefix := range unneeded {
		if strings.HasPrefix(field, prefix+".") {
			return prefix
		}
	}
	return ""
}

// refersTo adds variables from ConfigMaps and Secrets to a template, named as "ConfigMap a", optional ones as "ConfigMap a?".
func refersTo(t *corev1.PodTemplateSpec, objects ...string) {
	for _, object := range objects {
		kind, name, _ := strings.Cut(object, " ")
		name, optional := strings.CutSuffix(name, "?")
		from := corev1.EnvFromSource{}
		if kind == KindSecret {
			from.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional}
		} else {
			from.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &optional}
		}
		t.Spec.Containers[0].EnvFrom = append(t.Spec.Containers[0].EnvFrom, from)
	}
}

func TestLostReferences(t *testing.T) {
	var twelve []string
	for i := range 12 {
		twelve = append(twelve, fmt.Sprintf("ConfigMap c-%02d", i))
	}
	for _, row := range []struct {
		name               string
		good, target, want []string
	}{
		{"none", nil, nil, nil},
		{"kept", []string{"ConfigMap a"}, []string{"ConfigMap a"}, nil},
		{"another name", []string{"ConfigMap a"}, []string{"ConfigMap b"}, []string{"ConfigMap a"}},
		{"only new ones", nil, []string{"ConfigMap b"}, nil},
		{"the same name of another kind", []string{"ConfigMap a"}, []string{"Secret a"}, []string{"ConfigMap a"}},
		{"optional", []string{"ConfigMap a?"}, nil, nil},
		{"optional from now on", []string{"ConfigMap a"}, []string{"ConfigMap a?"}, []string{"ConfigMap a"}},
		{"optional in one place, needed in another", []string{"ConfigMap a?", "ConfigMap a"}, nil, []string{"ConfigMap a"}},
		{"twice", []string{"ConfigMap a", "ConfigMap a"}, nil, []string{"ConfigMap a"}},
		{"by kind and name", []string{"Secret b", "ConfigMap c", "Secret a", "ConfigMap d"}, nil, []string{"ConfigMap c", "ConfigMap d", "Secret a", "Secret b"}},
		{"without a name", []string{"ConfigMap "}, nil, nil},
		{"many", twelve, nil, twelve[:maxLost]},
	} {
		a, b := template("app:1"), template("app:2")
		refersTo(&a, row.good...)
		refersTo(&b, row.target...)
		var got []string
		for _, object := range lostReferences(&a.Spec, &b.Spec) {
			got = append(got, object.String())
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.name, diff)
		}
	}
}

func TestReferences_ISCSIWithoutCHAP(t *testing.T) {
	spec := template("app:1").Spec
	spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{SecretRef: &corev1.LocalObjectReference{Name: "a"}}}}}
	if got := references(&spec); len(got) > 0 {
		t.Errorf("%v is not read without CHAP", got)
	}
}

// changing sets a scene in which app:2 rolls out, which refers to other objects than app:1, which was good.
func changing(good, target []string) *scene {
	s := asking("app:2")
	before := newGuarded("app:1")
	refersTo(&before.Spec.Template, good...)
	refersTo(&s.Guarded.Spec.Template, target...)
	for i, g := range []*v1alpha1.GuardedDeployment{before, s.Guarded} {
		r := recorded(g, int64(i+1))
		if i == 0 {
			r = withVerdict(decode(g, r), nil)
		}
		s.store(r)
	}
	s.write(desiredDeployment(s.Guarded, decode(s.Guarded, s.Revisions[1]), nil), nil)
	return s
}

// failing lets the pods of app:2 crash after a while, and none of app:1 start.
func (s *scene) failing() *scene {
	s.cluster = func(d *appsv1.Deployment) *Evidence {
		if d.Spec.Template.Spec.Containers[0].Image == "app:2" && s.Now.Sub(noon) > 10*time.Second {
			return crashing(d)
		}
		return noneReady(d)
	}
	return s
}

// notes plays until nothing happens, and returns what the condition said, by its reason, of what app:1 needs.
func (s *scene) notes() map[string]string {
	var good string
	for _, r := range s.Revisions {
		if revision := decode(s.Guarded, r); image(revision) == "app:1" {
			good = r.Name
		}
	}
	said := map[string]string{}
	for range 400 {
		d, _ := s.step()
		if d.Status != nil {
			ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.ConditionReady)
			note := regexp.MustCompile(`; \S+(, which it would go back to,)? needs .*$`).FindString(ready.Message)
			reason := ready.Reason
			if strings.Contains(ready.Message, "rolling back") {
				reason = "rolling back"
			}
			said[reason] = strings.ReplaceAll(note, good, "app:1")
		}
		wrote := d.Record != nil || d.Mark != nil || d.Deployment != nil || d.Status != nil
		if d.Recheck == 0 && !wrote {
			break
		}
		if !wrote {
			s.after(d.Recheck)
		}
	}
	return said
}

func TestDecide_MissingReferences(t *testing.T) {
	a, b := Reference{KindConfigMap, "a"}, Reference{KindSecret, "b"}
	silent := map[string]string{"Progressing": "", "rolling back": "", v1alpha1.ReasonRollbackFailed: ""}
	tells := func(what string) map[string]string {
		return map[string]string{"Progressing": "; app:1, which it would go back to, needs " + what, "rolling back": "; app:1 needs " + what,
			v1alpha1.ReasonRollbackFailed: "; app:1 needs " + what}
	}
	for _, row := range []struct {
		name  string
		scene *scene
		found map[Reference]Finding
		asked []string
		said  map[string]string
	}{
		{"one is missing", changing([]string{"ConfigMap a"}, []string{"ConfigMap c"}).failing(), map[Reference]Finding{a: Missing},
			[]string{"ConfigMap a", "ConfigMap a"}, tells("ConfigMap a, which is not there any more")},
		{"two are missing", changing([]string{"ConfigMap a", "Secret b"}, nil).failing(), map[Reference]Finding{a: Missing, b: Missing},
			[]string{"ConfigMap a, Secret b", "ConfigMap a, Secret b"}, tells("ConfigMap a and Secret b, which are not there any more")},
		{"present", changing([]string{"ConfigMap a"}, []string{"ConfigMap c"}).failing(), nil, []string{"ConfigMap a", "ConfigMap a"}, silent},
		{"kept", changing([]string{"ConfigMap a"}, []string{"ConfigMap a"}).failing(), map[Reference]Finding{a: Missing}, nil, silent},
		{"optional", changing([]string{"ConfigMap a?"}, nil).failing(), map[Reference]Finding{a: Missing}, nil, silent},
		{"no answer", changing([]string{"ConfigMap a"}, nil).failing(), map[Reference]Finding{a: Unreadable}, []string{"ConfigMap a", "ConfigMap a"}, silent},
		{"without the right", changing([]string{"ConfigMap a"}, nil).failing(), map[Reference]Finding{a: Forbidden}, []string{"ConfigMap a"}, silent},
		{"without the right to Secrets", changing([]string{"ConfigMap a", "Secret b"}, nil).failing(), map[Reference]Finding{a: Missing, b: Forbidden},
			[]string{"ConfigMap a, Secret b", "ConfigMap a"}, tells("ConfigMap a, which is not there any more")},
		{"a release that succeeds", changing([]string{"ConfigMap a"}, nil), map[Reference]Finding{a: Missing}, []string{"ConfigMap a"},
			map[string]string{v1alpha1.ReasonSoaking: "; app:1, which it would go back to, needs ConfigMap a, which is not there any more", v1alpha1.ReasonRolledOut: ""}},
		{"one that waits past its deadline", changing([]string{"ConfigMap a"}, nil).with(func(s *scene) {
			s.cluster = func(d *appsv1.Deployment) *Evidence { return evidence(d) }
		}), map[Reference]Finding{a: Missing}, []string{"ConfigMap a"},
			map[string]string{"Progressing": "; app:1, which it would go back to, needs ConfigMap a, which is not there any more",
				v1alpha1.ReasonWaitingForDeploymentController: "; app:1, which it would go back to, needs ConfigMap a, which is not there any more"}},
		{"hold", changing([]string{"ConfigMap a"}, nil).failing().hold(), map[Reference]Finding{a: Missing}, nil,
			map[string]string{"Progressing": "", v1alpha1.ReasonHeld: ""}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := row.scene
			s.objects = row.found
			said := s.notes()
			if diff := cmp.Diff(row.said, said); diff != "" {
				t.Errorf("the condition (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(row.asked, s.asked); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// What is put back in time is not missed when the rollback begins, and what goes meanwhile is.
func TestDecide_ReferencesAreAskedForAgain(t *testing.T) {
	a := Reference{KindConfigMap, "a"}
	for _, row := range []struct {
		name          string
		before, after Finding
		said          string
	}{
		{"it is put back", Missing, Present, ""},
		{"it goes meanwhile", Present, Missing, "; app:1 needs ConfigMap a, which is not there any more"},
		{"an answer only then", Unreadable, Missing, "; app:1 needs ConfigMap a, which is not there any more"},
	} {
		s := changing([]string{"ConfigMap a"}, nil).failing()
		s.objects = map[Reference]Finding{a: row.before}
		for range 100 {
			if d, _ := s.step(); d.RollBack {
				break
			} else if d.Record == nil && d.Mark == nil && d.Deployment == nil && d.Status == nil {
				s.after(d.Recheck)
			}
		}
		s.objects[a] = row.after
		if said := s.notes()[v1alpha1.ReasonRollbackFailed]; said != row.said {
			t.Errorf("%s: the condition ends with %q, want %q", row.name, said, row.said)
		}
	}
}

// Another attempt is another rollout, and so is one that another process sees.
func TestDecide_ReferencesOfAnotherRollout(t *testing.T) {
	s := changing([]string{"ConfigMap a"}, nil)
	s.cluster = noneReady
	s.objects = map[Reference]Finding{{KindConfigMap, "a"}: Missing}
	for _, next := range []struct {
		name string
		do   func()
		want int
	}{
		{"the first", func() {}, 1},
		{"the same", func() {}, 1},
		{"of another process", func() { s.restart() }, 2},
		{"another attempt", func() {
			target := decode(s.Guarded, s.Revisions[len(s.Revisions)-1])
			s.store(withRequest(target, target.Revision, &Attempt{Number: 2}))
		}, 3},
	} {
		next.do()
		for range 4 {
			d, _ := s.step()
			s.after(max(d.Recheck, pollInterval))
		}
		if len(s.asked) != next.want {
			t.Errorf("%s: asked %d times by then, want %d", next.name, len(s.asked), next.want)
		}
	}
}

// Nobody is told while nothing is under way, when what was found may be old, or would go back.
func TestDecide_ReferencesPausedOrHeld(t *testing.T) {
	s := changing([]string{"ConfigMap a"}, nil)
	s.cluster = noneReady
	s.objects = map[Reference]Finding{{KindConfigMap, "a"}: Missing}
	says := func() string {
		for range 3 {
			d, _ := s.step()
			s.after(d.Recheck)
		}
		return meta.FindStatusCondition(s.Guarded.Status.Conditions, v1alpha1.ConditionReady).Message
	}
	if message := says(); !strings.Contains(message, "needs ConfigMap a") {
		t.Errorf("under way it says %q", message)
	}
	s.hold()
	if message := says(); strings.Contains(message, "needs ConfigMap a") {
		t.Errorf("with Hold it says %q", message)
	}
	s.Guarded.Spec.Guard.OnFailure = v1alpha1.Rollback
	s.pause()
	if message := says(); strings.Contains(message, "needs ConfigMap a") {
		t.Errorf("paused it says %q", message)
	}
}

// A good release that comes up again later would go back to nothing.
func TestDecide_ReferencesOfGoodTarget(t *testing.T) {
	s := changing([]string{"ConfigMap a"}, nil)
	s.objects = map[Reference]Finding{{KindConfigMap, "a"}: Missing}
	s.notes()
	s.down()
	s.Memory.Progress = newProgress(decode(s.Guarded, s.Revisions[len(s.Revisions)-1]), s.Now, s.Now)
	s.step()
	ready := meta.FindStatusCondition(s.Guarded.Status.Conditions, v1alpha1.ConditionReady)
	if ready.Reason != v1alpha1.ReasonProgressing || strings.Contains(ready.Message, "needs") {
		t.Errorf("%s: it says %q", ready.Reason, ready.Message)
	}
}
