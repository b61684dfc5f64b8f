package rollout

import (
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"
)

// A new Kubernetes has new fields. Each is sorted by hand: look up who reads it.
func TestNeeds_EveryFieldIsSorted(t *testing.T) {
	for typ, sorted := range readers {
		for i := range typ.NumField() {
			if _, ok := sorted[typ.Field(i).Name]; !ok {
				t.Errorf("who reads %s.%s before a pod can start? Say so in readers", typ, typ.Field(i).Name)
			}
		}
		for name := range sorted {
			if _, ok := typ.FieldByName(name); !ok {
				t.Errorf("%s has no field %s any more", typ, name)
			}
		}
	}
}

// Whatever the table says of a field is what the comparisons do. Fields that a table of their own splits are tried there.
func TestNeeds_TableDrivesComparison(t *testing.T) {
	split := []string{"Containers", "InitContainers", "Volumes", "SecurityContext", "Resources"}
	try := func(typ reflect.Type, in func(*corev1.PodTemplateSpec) reflect.Value) {
		for field, by := range readers[typ] {
			if slices.Contains(split, field) {
				continue
			}
			a, b := template("app:1"), template("app:2")
			fill(in(&b).FieldByName(field))
			room, _ := sameRoom(&a, &b)
			quota, _ := sameQuota(&a, &b)
			volumes := sameVolumes(&a, &b)
			if room != (by&byScheduler == 0) || quota != (by&byQuota == 0) || volumes != (by&byStorage == 0) {
				t.Errorf("%s.%s: same room %v, quota %v, volumes %v", typ, field, room, quota, volumes)
			}
		}
	}
	try(reflect.TypeFor[corev1.PodSpec](), func(t *corev1.PodTemplateSpec) reflect.Value { return reflect.ValueOf(&t.Spec).Elem() })
	try(reflect.TypeFor[corev1.Container](), func(t *corev1.PodTemplateSpec) reflect.Value {
		return reflect.ValueOf(&t.Spec.Containers[0]).Elem()
	})
	try(reflect.TypeFor[corev1.PodSecurityContext](), func(t *corev1.PodTemplateSpec) reflect.Value {
		t.Spec.SecurityContext = &corev1.PodSecurityContext{}
		return reflect.ValueOf(t.Spec.SecurityContext).Elem()
	})
	try(reflect.TypeFor[corev1.VolumeSource](), func(t *corev1.PodTemplateSpec) reflect.Value {
		t.Spec.Volumes = make([]corev1.Volume, 1)
		return reflect.ValueOf(&t.Spec.Volumes[0].VolumeSource).Elem()
	})
}

// fill gives a field some value that is not its zero.
func fill(field reflect.Value) {
	filler := randfill.NewWithSeed(1).NilChance(0).NumElements(1, 1).MaxDepth(6).Funcs(
		func(q *resource.Quantity, _ randfill.Continue) { *q = resource.MustParse("3") },
		func(time *metav1.Time, _ randfill.Continue) {},
		func(raw *metav1.FieldsV1, _ randfill.Continue) {},
	)
	for field.IsZero() {
		filler.Fill(field.Addr().Interface())
	}
}

func TestNeeds_UnsortedFieldCounts(t *testing.T) {
	containers := readers[reflect.TypeFor[corev1.Container]()]
	by := containers["Image"]
	delete(containers, "Image")
	defer func() { containers["Image"] = by }()
	a, b := template("app:1"), template("app:2")
	if same, field := sameRoom(&a, &b); same || field != "spec.containers[0].image" {
		t.Errorf("got %v %q", same, field)
	}
}

func resources(requests, limits string) corev1.ResourceRequirements {
	list := func(memory string) corev1.ResourceList {
		if memory == "" {
			return nil
		}
		return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
	}
	return corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}
}

func TestNeeds_SameRoomAndQuota(t *testing.T) {
	type change = func(*corev1.PodTemplateSpec)
	memory := func(requests, limits string) change {
		return func(t *corev1.PodTemplateSpec) { t.Spec.Containers[0].Resources = resources(requests, limits) }
	}
	port := func(hostNetwork bool, p corev1.ContainerPort) change {
		return func(t *corev1.PodTemplateSpec) {
			t.Spec.HostNetwork, t.Spec.Containers[0].Ports = hostNetwork, []corev1.ContainerPort{p}
		}
	}
	labels := func(labels map[string]string, selector *metav1.LabelSelector, keys ...string) change {
		return func(t *corev1.PodTemplateSpec) {
			t.Labels = labels
			t.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{LabelSelector: selector, MatchLabelKeys: keys}}
		}
	}
	apart := func(labels map[string]string, key string) change {
		return func(t *corev1.PodTemplateSpec) {
			t.Labels = labels
			t.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key}}}}}}}
		}
	}
	together := func(labels map[string]string) change {
		return func(t *corev1.PodTemplateSpec) {
			t.Labels = labels
			t.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				MatchLabelKeys: []string{"app"}, MismatchLabelKeys: []string{"version"}}}}}
		}
	}
	scheduler := func(name, key string) change {
		return func(t *corev1.PodTemplateSpec) {
			t.Spec.SchedulerName, t.Labels, t.Annotations = name, map[string]string{"v": key}, map[string]string{"a": key}
		}
	}
	mount := func(options ...string) change {
		return func(t *corev1.PodTemplateSpec) {
			t.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/x", BindMountOptions: options}}
		}
	}
	podLevel := func(requests, limits string) change {
		return func(t *corev1.PodTemplateSpec) { t.Spec.Resources = new(resources(requests, limits)) }
	}
	v1, v2 := map[string]string{"app": "web", "version": "1"}, map[string]string{"app": "web", "version": "2"}
	none := func(*corev1.PodTemplateSpec) {}
	for _, test := range []struct {
		name        string
		a, b        change
		room, quota string // the first field that differs
	}{
		{"only the image", none, none, "", ""},
		{"more memory", memory("2Gi", ""), memory("1Gi", ""), "spec.containers[0].resources.requests", "spec.containers[0].resources.requests"},
		{"the same memory in other words", memory("1024Mi", ""), memory("1Gi", ""), "", ""},
		{"a limit only", memory("", "1Gi"), memory("1Gi", "1Gi"), "", ""},
		{"another limit", memory("1Gi", "3Gi"), memory("1Gi", "2Gi"), "", "spec.containers[0].resources.limits"},
		{"more memory for the pod", podLevel("2Gi", ""), podLevel("1Gi", ""), "spec.resources", "spec.resources"},
		{"memory for the pod", podLevel("2Gi", ""), none, "spec.resources", "spec.resources"},
		{"a limit for the pod", podLevel("1Gi", "2Gi"), podLevel("1Gi", "3Gi"), "", "spec.resources"},
		{"one container more", func(t *corev1.PodTemplateSpec) {
			t.Spec.Containers = append(t.Spec.Containers, corev1.Container{Name: "log"})
		}, none,
			"spec.containers", "spec.containers"},
		{"a port", port(false, corev1.ContainerPort{ContainerPort: 80, Name: "http"}), none, "", ""},
		{"a port of the node", port(false, corev1.ContainerPort{ContainerPort: 80, HostPort: 80}), none, "spec.containers[0].ports", ""},
		{"the default protocol", port(false, corev1.ContainerPort{HostPort: 80}), port(false, corev1.ContainerPort{HostPort: 80, Protocol: corev1.ProtocolTCP}), "", ""},
		{"another protocol", port(false, corev1.ContainerPort{HostPort: 80, Protocol: corev1.ProtocolUDP}), port(false, corev1.ContainerPort{HostPort: 80}),
			"spec.containers[0].ports[0].protocol", ""},
		{"a port on the node's network", port(true, corev1.ContainerPort{ContainerPort: 80}), port(true, corev1.ContainerPort{ContainerPort: 81}),
			"spec.containers[0].ports[0].hostPort", ""},
		{"a port on the node's network, stated twice", port(true, corev1.ContainerPort{ContainerPort: 80}), port(true, corev1.ContainerPort{ContainerPort: 80, HostPort: 80}), "", ""},
		{"a mount", mount(), none, "", ""},
		{"a mount that few nodes can make", mount("noexec"), mount(), "spec.containers[0].volumeMounts", ""},

		{"a version label", labels(v1, nil), labels(v2, nil), "", ""},
		{"a label that spreads", labels(v1, &metav1.LabelSelector{MatchLabels: map[string]string{"version": "1"}}),
			labels(v2, &metav1.LabelSelector{MatchLabels: map[string]string{"version": "1"}}), "metadata.labels.version", ""},
		{"a label that spreads by its own value", labels(v1, nil, "version"), labels(v2, nil, "version"), "metadata.labels.version", ""},
		{"a label that keeps apart", apart(v1, "version"), apart(v2, "version"), "metadata.labels.version", ""},
		{"a label that keeps together", together(v1), together(v2), "metadata.labels.version", ""},
		{"another label keeps apart", apart(v1, "app"), apart(v2, "app"), "", ""},
		{"affinity", apart(v1, "app"), apart(v1, "version"), "spec.affinity", "spec.affinity"},
		{"the default scheduler by name", scheduler("default-scheduler", "x"), scheduler("", "y"), "", ""},
		{"another scheduler", scheduler("volcano", ""), scheduler("", ""), "spec.schedulerName", ""},
		{"another scheduler's annotation", scheduler("volcano", "x"), scheduler("volcano", "y"), "metadata.annotations", ""},
		{"another scheduler's label", func(t *corev1.PodTemplateSpec) { t.Spec.SchedulerName, t.Labels = "volcano", v1 },
			func(t *corev1.PodTemplateSpec) { t.Spec.SchedulerName, t.Labels = "volcano", v2 }, "metadata.labels", ""},
		{"priority", func(t *corev1.PodTemplateSpec) { t.Spec.PriorityClassName = "high" }, none, "spec.priorityClassName", "spec.priorityClassName"},
		{"empty and missing", func(t *corev1.PodTemplateSpec) { t.Spec.Tolerations = []corev1.Toleration{} }, none, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := template("app:2"), template("app:1")
			test.a(&a)
			test.b(&b)
			before := a.DeepCopy()
			for _, order := range [][2]*corev1.PodTemplateSpec{{&a, &b}, {&b, &a}} {
				if same, field := sameRoom(order[0], order[1]); same != (test.room == "") || field != test.room {
					t.Errorf("room: got %v %q, want %q", same, field, test.room)
				}
				if same, field := sameQuota(order[0], order[1]); same != (test.quota == "") || field != test.quota {
					t.Errorf("quota: got %v %q, want %q", same, field, test.quota)
				}
			}
			if !reflect.DeepEqual(&a, before) {
				t.Error("the template was changed")
			}
		})
	}
}

func TestNeeds_SameVolumes(t *testing.T) {
	claim := func(name, claim string) corev1.Volume {
		v := corev1.Volume{Name: name}
		v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}
		return v
	}
	config := func(name, object string) corev1.Volume {
		v := corev1.Volume{Name: name}
		v.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: object}}
		return v
	}
	for _, test := range []struct {
		name string
		a, b []corev1.Volume
		want bool
	}{
		{"none", nil, nil, true},
		{"the same", []corev1.Volume{claim("a", "1"), claim("b", "2")}, []corev1.Volume{claim("b", "2"), claim("a", "1")}, true},
		{"another claim", []corev1.Volume{claim("a", "1")}, []corev1.Volume{claim("a", "2")}, false},
		{"a claim more", []corev1.Volume{claim("a", "1")}, nil, false},
		{"another ConfigMap", []corev1.Volume{claim("a", "1"), config("c", "1")}, []corev1.Volume{claim("a", "1"), config("c", "2")}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := template("app:2"), template("app:1")
			a.Spec.Volumes, b.Spec.Volumes = test.a, test.b
			if got := sameVolumes(&a, &b); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestNeeds_RegistryOf(t *testing.T) {
	for image, want := range map[string]string{
		"nginx": "docker.io", "nginx:1.27": "docker.io", "nginx@sha256:00": "docker.io", "library/nginx": "docker.io", "team/app/web:1": "docker.io",
		"docker.io/library/nginx": "docker.io", "index.docker.io/library/nginx": "docker.io", "localhost/app:1": "localhost", "reg:5000/app": "reg:5000",
		"ghcr.io/team/app:1": "ghcr.io", "10.0.0.1/app": "10.0.0.1", "Reg/app": "Reg",
	} {
		if got := registryOf(image); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}

func TestNeeds_SameRegistry(t *testing.T) {
	images := func(init, web, volume string) *corev1.PodTemplateSpec {
		t := template(web)
		t.Spec.InitContainers = []corev1.Container{{Name: "init", Image: init}}
		t.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "model"}}
		t.Spec.Volumes = make([]corev1.Volume, 2)
		t.Spec.Volumes[0].Name, t.Spec.Volumes[0].Image = "model", &corev1.ImageVolumeSource{Reference: volume}
		return &t
	}
	old := images("docker.io/init", "a.io/web", "c.io/model")
	for _, test := range []struct {
		name, container string
		a, b            *corev1.PodTemplateSpec
		want            bool
	}{
		{"the same", "web", images("x.io/init", "a.io/web:2", "c.io/model"), old, true},
		{"another's of the last good one", "web", images("x.io/init", "docker.io/web", "c.io/model"), old, true},
		{"a new one", "web", images("docker.io/init", "b.io/web", "c.io/model"), old, false},
		{"a new one of its volume", "web", images("docker.io/init", "a.io/web", "d.io/model"), old, false},
		{"a new one of another container's volume", "init", images("docker.io/init", "a.io/web", "d.io/model"), old, true},
		{"that of a volume", "web", images("x.io/init", "c.io/web", "c.io/model"), old, true},
		{"injected", "proxy", old, old, false},
		{"any", "", images("x.io/init", "y.io/web", "c.io/model"), old, true},
		{"none", "", images("x.io/init", "y.io/web", "z.io/model"), old, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := sameRegistry(test.a, test.b, test.container); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
