package rollout

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// desiredWith returns what is desired for a GuardedDeployment that was changed by change.
func desiredWith(change func(*v1alpha1.GuardedDeployment)) *appsv1.Deployment {
	g := newGuarded("v1")
	if change != nil {
		change(g)
	}
	return desiredDeployment(g, decode(g, recorded(g, 1)), nil)
}

func TestDesiredDeployment_NoMoreThanTheSpec(t *testing.T) {
	got := desiredWith(func(g *v1alpha1.GuardedDeployment) {
		g.Labels, g.Annotations = map[string]string{"argocd": "web"}, map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
	})
	g := newGuarded("v1")
	want := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", Labels: map[string]string{v1alpha1.GuardedLabel: "true"},
			Annotations:     map[string]string{v1alpha1.RevisionAnnotation: recorded(g, 1).Name, v1alpha1.AppliedAnnotation: got.Annotations[v1alpha1.AppliedAnnotation]},
			OwnerReferences: []metav1.OwnerReference{ownerReference(g)}},
		Spec: g.Spec.DeploymentSpec,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stated (-want +got):\n%s", diff)
	}
}

func TestOverlay_KeepsWhatOthersHave(t *testing.T) {
	live := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = full() })
	live.UID, live.ResourceVersion, live.Generation, live.Finalizers = "u", "7", 3, []string{"theirs/x"}
	live.Labels["theirs"], live.Annotations["deployment.kubernetes.io/revision"] = "l", "3"
	live.OwnerReferences = append(live.OwnerReferences, metav1.OwnerReference{Name: "other", UID: "other"})
	live.Spec.Replicas, live.Status.Replicas = new(int32(8)), 8
	before := live.DeepCopy()

	desired := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas, g.Spec.MinReadySeconds = nil, 5 })
	want := live.DeepCopy()
	want.Annotations[v1alpha1.RevisionAnnotation] = desired.Annotations[v1alpha1.RevisionAnnotation]
	want.Annotations[v1alpha1.AppliedAnnotation] = desired.Annotations[v1alpha1.AppliedAnnotation]
	want.Spec.Template, want.Spec.MinReadySeconds = template("v1"), 5 // the template as a whole
	if diff := cmp.Diff(want, Overlay(live, desired, nil)); diff != "" {
		t.Errorf("overlaid (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, live); diff != "" {
		t.Errorf("the live object is changed (-was +is):\n%s", diff)
	}

	desired = desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = new(int32(2)) })
	if got := *Overlay(live, desired, nil).Spec.Replicas; got != 2 {
		t.Errorf("%d replicas, of 2 that are stated", got)
	}
	bare := Overlay(&appsv1.Deployment{}, desired, nil)
	if bare.Labels[v1alpha1.GuardedLabel] != "true" || len(bare.Annotations) != 2 {
		t.Errorf("labels and annotations where there were none: %v", bare.ObjectMeta)
	}
}

// kubectl rollout restart, and whoever injects, adds to the template: that stays until the next release.
func TestOverlay_SameRevision(t *testing.T) {
	live := defaulted(desiredWith(nil))
	live.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
	scaled := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = new(int32(7)) })
	got := Overlay(live, scaled, nil)
	if diff := cmp.Diff(live.Spec.Template, got.Spec.Template); diff != "" || *got.Spec.Replicas != 7 {
		t.Errorf("scaled to %d (-before +after):\n%s", *got.Spec.Replicas, diff)
	}

	live.Spec.Template.Spec.Containers[0].Image = "forged"
	live.Spec.Template.Annotations["added"] = "too"
	scaled.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"} // as with kubectl apply
	if diff := cmp.Diff(scaled.Spec.Template, Overlay(live, scaled, nil).Spec.Template); diff != "" {
		t.Errorf("a changed template is not put back as a whole (-want +got):\n%s", diff)
	}
}

// The time of a restart outlives releases, unless one states another.
func TestOverlay_KeepsTheTimeOfARestart(t *testing.T) {
	const restarted = "kubectl.kubernetes.io/restartedAt"
	live := defaulted(desiredWith(nil))
	live.Spec.Template.Annotations = map[string]string{restarted: "now", "theirs": "too"}
	next := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = template("v2") })
	next.Annotations[v1alpha1.RevisionAnnotation], next.Annotations[v1alpha1.AppliedAnnotation] = "web-2", "hash-2"
	if got := Overlay(live, next, nil).Spec.Template.Annotations; len(got) != 1 || got[restarted] != "now" {
		t.Errorf("annotations are %v, want the time of the restart and no other", got)
	}
	next.Spec.Template.Annotations = map[string]string{restarted: "later"}
	if got := Overlay(live, next, nil).Spec.Template.Annotations[restarted]; got != "later" {
		t.Errorf("restarted %s, want the time that is stated", got)
	}
}

func TestOverlay_Paused(t *testing.T) {
	g := newGuarded("v2")
	g.Spec.Paused, g.Spec.Replicas, g.Spec.MinReadySeconds = true, nil, 99
	live := desiredWith(nil)
	live.Spec.Replicas = new(int32(8))
	want := live.DeepCopy()
	want.Spec.Paused = true
	desired := desiredPaused(g)
	want.Annotations[v1alpha1.AppliedAnnotation] = desired.Annotations[v1alpha1.AppliedAnnotation]
	if diff := cmp.Diff(want, Overlay(live, desired, nil)); diff != "" {
		t.Errorf("paused (-want +got):\n%s", diff)
	}
}

// full is a template that states a good deal.
func full() corev1.PodTemplateSpec {
	t := template("v1")
	t.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	t.Spec.Containers[0].Args = []string{"serve", "--fast"}
	t.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}}
	t.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(false)}
	t.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}}
	t.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1000m"), "memory": resource.MustParse("1024Mi")}
	t.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "init"}}
	t.Spec.Volumes = []corev1.Volume{{Name: "empty"}, {Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
	t.Spec.TerminationGracePeriodSeconds = new(int64(0))
	return t
}

// defaulted does to a Deployment what the API server does to what is left out.
func defaulted(d *appsv1.Deployment) *appsv1.Deployment {
	d = d.DeepCopy()
	orElse := func(value **int32, otherwise int32) {
		if *value == nil {
			*value = &otherwise
		}
	}
	orElse(&d.Spec.Replicas, 1)
	orElse(&d.Spec.RevisionHistoryLimit, 10)
	orElse(&d.Spec.ProgressDeadlineSeconds, 600)
	if d.Spec.Strategy.Type == "" {
		d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType && d.Spec.Strategy.RollingUpdate == nil {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromString("25%"))}
	}
	pod := &d.Spec.Template.Spec
	if pod.TerminationGracePeriodSeconds == nil {
		pod.TerminationGracePeriodSeconds = new(int64(30))
	}
	pod.RestartPolicy, pod.DNSPolicy, pod.SchedulerName = "Always", "ClusterFirst", "default-scheduler"
	if pod.SecurityContext == nil {
		pod.SecurityContext = &corev1.PodSecurityContext{}
	}
	for _, containers := range [][]corev1.Container{pod.Containers, pod.InitContainers} {
		for i := range containers {
			c := &containers[i]
			c.ImagePullPolicy, c.TerminationMessagePath, c.TerminationMessagePolicy = "IfNotPresent", "/dev/termination-log", "File"
			for j := range c.Ports {
				c.Ports[j].Protocol = "TCP"
			}
			for j := range c.Env {
				if from := c.Env[j].ValueFrom; from != nil && from.FieldRef != nil {
					from.FieldRef.APIVersion = "v1"
				}
			}
			if p := c.ReadinessProbe; p != nil {
				p.TimeoutSeconds, p.PeriodSeconds, p.SuccessThreshold, p.FailureThreshold = 1, 10, 1, 3
				if p.HTTPGet != nil {
					p.HTTPGet.Path, p.HTTPGet.Scheme = "/", "HTTP"
				}
			}
		}
	}
	for i := range pod.Volumes {
		v := &pod.Volumes[i]
		if v.Secret != nil {
			v.Secret.DefaultMode = new(int32(0o644))
		} else if v.EmptyDir == nil {
			v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		}
	}
	return d
}

func TestDrift(t *testing.T) {
	desired := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = full() })
	type change func(*appsv1.Deployment, *corev1.PodSpec)
	for _, row := range []struct {
		name   string
		change change
		want   string
	}{
		{"server defaults do not count", func(*appsv1.Deployment, *corev1.PodSpec) {}, ""},
		{"what others add does not count", func(d *appsv1.Deployment, p *corev1.PodSpec) {
			d.Labels["theirs"], d.Annotations["theirs"] = "x", "x"
			d.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
			p.NodeSelector = map[string]string{"disk": "ssd"}
			p.Containers[0].Env = append(p.Containers[0].Env, corev1.EnvVar{Name: "B", Value: "2"})
		}, ""},
		{"a sidecar does not count", func(_ *appsv1.Deployment, p *corev1.PodSpec) {
			p.Containers = append(p.Containers, corev1.Container{Name: "proxy"})
		}, ""},
		{"kubectl rollout pause does not count", func(d *appsv1.Deployment, _ *corev1.PodSpec) { d.Spec.Paused = true }, ""},
		{"an image counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.Containers[0].Image = "v2" }, "spec.template.spec.containers[0].image"},
		{"replicas count", func(d *appsv1.Deployment, _ *corev1.PodSpec) { d.Spec.Replicas = new(int32(1)) }, "spec.replicas"},
		{"our label counts", func(d *appsv1.Deployment, _ *corev1.PodSpec) { d.Labels = nil }, "metadata.labels[belay.dev/guarded]"},
		{"our annotation counts", func(d *appsv1.Deployment, _ *corev1.PodSpec) { delete(d.Annotations, v1alpha1.RevisionAnnotation) }, "metadata.annotations[belay.dev/revision]"},
		{"a stated false that became true counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.Containers[0].SecurityContext.Privileged = new(true) },
			"spec.template.spec.containers[0].securityContext.privileged"},
		{"a stated false that is gone counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.Containers[0].SecurityContext = nil },
			"spec.template.spec.containers[0].securityContext.privileged"},
		{"a stated 0 counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.TerminationGracePeriodSeconds = new(int64(30)) }, "spec.template.spec.terminationGracePeriodSeconds"},
		{"a container less counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.InitContainers = nil }, "spec.template.spec.initContainers"},
		{"a variable less counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.Containers[0].Env = p.Containers[0].Env[:1] }, "spec.template.spec.containers[0].env"},
		{"an argument more counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) {
			p.Containers[0].Args = append(p.Containers[0].Args, "--evil")
		}, "spec.template.spec.containers[0].args"},
		{"other arguments count", func(_ *appsv1.Deployment, p *corev1.PodSpec) { p.Containers[0].Args = []string{"serve", "--slow"} }, "spec.template.spec.containers[0].args[1]"},
		{"another amount counts", func(_ *appsv1.Deployment, p *corev1.PodSpec) {
			p.Containers[0].Resources.Requests["cpu"] = resource.MustParse("2")
		}, "spec.template.spec.containers[0].resources.requests.cpu"},
		{"another kind of value counts", func(d *appsv1.Deployment, _ *corev1.PodSpec) { d.Spec.Selector = nil }, "spec.selector.matchLabels.app"},
	} {
		t.Run(row.name, func(t *testing.T) {
			live := defaulted(desired)
			row.change(live, &live.Spec.Template.Spec)
			if got := drift(desired, live); got != row.want {
				t.Errorf("drift %q, want %q", got, row.want)
			}
			accepted := Accept(desired, live)
			if (accepted == "") != (row.want == "") || (accepted != "" && accepted != fingerprint(desired, live)) {
				t.Errorf("accepted as %q", accepted)
			}
		})
	}
}

// Whatever a spec states: what comes back from the API server, with its defaults and in its JSON, has not drifted. And
// what was written by Overlay has not, whatever was there before.
func TestDrift_NothingByItself(t *testing.T) {
	fill := randfill.NewWithSeed(7).NilChance(0.7).NumElements(1, 2).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse([]string{"1000m", "1024Mi", "0.5", "1e3", "0"}[c.Intn(5)])
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			*v = []intstr.IntOrString{intstr.FromString("25%"), intstr.FromInt32(0), intstr.FromInt32(3)}[c.Intn(3)]
		},
		func(m *metav1.ObjectMeta, c randfill.Continue) { c.Fill(&m.Labels); c.Fill(&m.Annotations) },
		func(*metav1.FieldsV1, randfill.Continue) {},
	)
	var before *appsv1.Deployment
	for range 300 {
		g := newGuarded("v1")
		fill.Fill(&g.Spec.DeploymentSpec)
		g.Spec.Paused = false
		g.Spec.Selector = newGuarded("v1").Spec.Selector // required
		desired := desiredDeployment(g, decode(g, recorded(g, 1)), nil)
		live := desired
		if before != nil {
			live = Overlay(before, desired, nil)
		}
		before = live
		var back appsv1.Deployment
		data, err := json.Marshal(live)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if got := drift(desired, &back); got != "" {
			t.Fatalf("%s drifted on its way: %s", got, data)
		}
		again := g.DeepCopy()
		if desiredDeployment(again, decode(again, recorded(again, 1)), nil).Annotations[v1alpha1.AppliedAnnotation] != desired.Annotations[v1alpha1.AppliedAnnotation] {
			t.Fatal("the same statement has two hashes")
		}
	}
}

// Every value that is stated counts: change any one of them in the live object, and its path is told.
func TestDrift_EveryStatedValue(t *testing.T) {
	desired := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = full() })
	stated, live := toUnstructured(&desired.Spec), toUnstructured(&defaulted(desired).Spec)
	count := 0
	root := live
	var visit func(path string, stated, live any, set func(any))
	visit = func(path string, stated, live any, set func(any)) {
		switch value := stated.(type) {
		case nil:
		case map[string]any:
			live := live.(map[string]any)
			for key := range value {
				visit(path+"."+key, value[key], live[key], func(v any) { live[key] = v })
			}
		case []any:
			live := live.([]any)
			for i := range value {
				visit(fmt.Sprintf("%s[%d]", path, i), value[i], live[i], func(v any) { live[i] = v })
			}
		default:
			count++
			for _, other := range []any{nil, "other", int64(-1), true, map[string]any{}, []any{}} {
				if set(other); other != value && difference("spec", toUnstructured(&desired.Spec), root) != path {
					t.Errorf("%s is %v instead of %v, and that is found as %q", path, other, value, difference("spec", toUnstructured(&desired.Spec), root))
				}
			}
			set(value)
		}
	}
	visit("spec", stated, live, nil)
	if count < 20 {
		t.Errorf("only %d values were tried", count)
	}
}

func TestHash_MeansTheSame(t *testing.T) {
	base := desiredWith(nil)
	if desiredWith(nil).Annotations[v1alpha1.AppliedAnnotation] != base.Annotations[v1alpha1.AppliedAnnotation] {
		t.Error("the same is stated with another hash")
	}
	for name, change := range map[string]func(*v1alpha1.GuardedDeployment){
		"empty lists": func(g *v1alpha1.GuardedDeployment) { g.Spec.Template.Spec.Volumes = []corev1.Volume{} },
		"empty maps":  func(g *v1alpha1.GuardedDeployment) { g.Spec.Template.Spec.NodeSelector = map[string]string{} },
		"empty structs": func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Template.Spec.SecurityContext = &corev1.PodSecurityContext{}
		},
		"another guard":      func(g *v1alpha1.GuardedDeployment) { g.Spec.Guard.SoakSeconds = new(int32(1)) },
		"another token":      func(g *v1alpha1.GuardedDeployment) { g.Annotations = map[string]string{v1alpha1.RetryAnnotation: "!"} },
		"another generation": func(g *v1alpha1.GuardedDeployment) { g.Generation, g.ResourceVersion = 9, "9" },
	} {
		a, b := desiredWith(change), base.DeepCopy()
		delete(a.Annotations, v1alpha1.RevisionAnnotation)
		delete(b.Annotations, v1alpha1.RevisionAnnotation)
		delete(a.Annotations, v1alpha1.AppliedAnnotation)
		delete(b.Annotations, v1alpha1.AppliedAnnotation)
		if hash(a) != hash(b) {
			t.Errorf("%s change the hash", name)
		}
	}
	for name, change := range map[string]func(*v1alpha1.GuardedDeployment){
		"replicas":   func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = nil },
		"no replica": func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = new(int32(0)) },
		"an image":   func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = template("v2") },
		"a false": func(g *v1alpha1.GuardedDeployment) {
			g.Spec.Template.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(false)}
		},
		"a number":  func(g *v1alpha1.GuardedDeployment) { g.Spec.MinReadySeconds = 1 },
		"an item":   func(g *v1alpha1.GuardedDeployment) { g.Spec.Template.Spec.Containers[0].Args = []string{""} },
		"the owner": func(g *v1alpha1.GuardedDeployment) { g.UID = "another" },
	} {
		if desiredWith(change).Annotations[v1alpha1.AppliedAnnotation] == base.Annotations[v1alpha1.AppliedAnnotation] {
			t.Errorf("%s does not change the hash", name)
		}
	}
}

// The hashes are stored. If this test fails, an upgrade writes every Deployment once.
func TestHash_NeverChanges(t *testing.T) {
	if got := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Template = full() }).Annotations[v1alpha1.AppliedAnnotation]; got != "4c007e3d37dc6310" {
		t.Errorf("got %s", got)
	}
}

// A policy's answer is recognised by what Belay may state, and nothing else.
func TestFingerprint(t *testing.T) {
	desired := desiredWith(func(g *v1alpha1.GuardedDeployment) { g.Spec.Replicas = nil })
	live := defaulted(desired)
	want := fingerprint(desired, live)
	for name, change := range map[string]func(*appsv1.Deployment){
		"a status":         func(d *appsv1.Deployment) { d.Status.Replicas = 9 },
		"a version":        func(d *appsv1.Deployment) { d.ResourceVersion, d.Generation = "9", 9 },
		"others' labels":   func(d *appsv1.Deployment) { d.Labels["theirs"] = "x" },
		"others' notes":    func(d *appsv1.Deployment) { d.Annotations["deployment.kubernetes.io/revision"] = "9" },
		"others' replicas": func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(9)) },
	} {
		other := live.DeepCopy()
		if change(other); fingerprint(desired, other) != want {
			t.Errorf("%s changes the fingerprint", name)
		}
	}
	for name, change := range map[string]func(*appsv1.Deployment){
		"an image":      func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" },
		"our label":     func(d *appsv1.Deployment) { d.Labels[v1alpha1.GuardedLabel] = "false" },
		"our revision":  func(d *appsv1.Deployment) { d.Annotations[v1alpha1.RevisionAnnotation] = "x" },
		"our statement": func(d *appsv1.Deployment) { d.Annotations[v1alpha1.AppliedAnnotation] = "x" },
	} {
		other := live.DeepCopy()
		if change(other); fingerprint(desired, other) == want {
			t.Errorf("%s does not change the fingerprint", name)
		}
	}
	if replicas := desiredWith(nil); fingerprint(replicas, live) == fingerprint(desired, live) {
		t.Error("replicas that are stated do not count")
	}
}

// What others add to a list stays, wherever they put it: kubectl patch puts a sidecar first, kubectl set env a variable last.
func TestDrift_AdditionsToLists(t *testing.T) {
	container := func(name string) corev1.Container { return corev1.Container{Name: name, Image: name} }
	for name, row := range map[string]struct {
		change func(*corev1.PodSpec)
		want   string
	}{
		"a sidecar in front": {func(p *corev1.PodSpec) {
			p.Containers = append([]corev1.Container{container("proxy")}, p.Containers...)
		}, ""},
		"a sidecar in between": {func(p *corev1.PodSpec) {
			p.Containers = []corev1.Container{p.Containers[0], container("proxy"), p.Containers[1]}
		}, ""},
		"a variable in front": {func(p *corev1.PodSpec) {
			p.Containers[0].Env = append([]corev1.EnvVar{{Name: "X"}}, p.Containers[0].Env...)
		}, ""},
		"another order": {func(p *corev1.PodSpec) { p.Containers[0], p.Containers[1] = p.Containers[1], p.Containers[0] }, "spec.template.spec.containers[1].name"},
		"another name":  {func(p *corev1.PodSpec) { p.Containers[1].Name = "other" }, "spec.template.spec.containers[1].name"},
		"a sidecar, and another image": {func(p *corev1.PodSpec) {
			p.Containers[0].Image = "theirs"
			p.Containers = append([]corev1.Container{container("proxy")}, p.Containers...)
		}, "spec.template.spec.containers[1].image"},
	} {
		t.Run(name, func(t *testing.T) {
			desired := &appsv1.Deployment{}
			desired.Spec.Template.Spec.Containers = []corev1.Container{container("a"), container("b")}
			desired.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}
			live := desired.DeepCopy()
			row.change(&live.Spec.Template.Spec)
			if got := drift(desired, live); got != row.want {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}

func TestDrift_AdditionsToEmptyList(t *testing.T) {
	desired, live := &appsv1.Deployment{}, &appsv1.Deployment{}
	desired.Spec.Template.Spec.Containers = []corev1.Container{}
	live.Spec.Template.Spec.Containers = []corev1.Container{{Name: "proxy"}}
	if got := drift(desired, live); got != "" {
		t.Errorf("%q, want none", got)
	}
}

// A value that is put back leaves alone what others added to the template that runs.
func TestDecide_ForgedAnnotationKeepsARestart(t *testing.T) {
	for _, annotation := range []string{"belay.dev/revision", "belay.dev/applied"} {
		s := asking("v1")
		s.play()
		s.Deployment.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
		s.Deployment.Annotations[annotation] = "forged"
		if _, told := s.step(); !strings.Contains(told, "put back metadata.annotations["+annotation+"]") {
			t.Errorf("%s: %s", annotation, told)
		}
		if len(s.Deployment.Spec.Template.Annotations) != 1 {
			t.Errorf("%s: the restart is undone", annotation)
		}
	}
}
