package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
	"github.com/belay-dev/belay/pkg/rollout"
)

// manifest is a file of testdata/manifests: a Deployment as users have it, and before it what its pods need.
type manifest struct {
	name       string
	deployment map[string]any
	needs      []map[string]any
}

// manifests reads all files. ${NAMESPACE} in them becomes the name of the namespace.
func manifests(t *testing.T, namespace string) (all []manifest) {
	t.Helper()
	files, err := filepath.Glob("testdata/manifests/*.yaml")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d manifests (%v)", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := manifest{name: strings.TrimSuffix(filepath.Base(file), ".yaml")}
		for _, document := range strings.Split(strings.ReplaceAll(string(data), "${NAMESPACE}", namespace), "\n---\n") {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if object["kind"] != "List" {
				m.deployment = object
				continue
			}
			for _, item := range object["items"].([]any) {
				m.needs = append(m.needs, item.(map[string]any))
			}
		}
		all = append(all, m)
	}
	return all
}

// lacking says what older API servers cannot do with a manifest: by the second number of their version, by manifest.
var lacking = map[string]map[string]string{
	"34": {
		"volumes-node":      "drops image volumes",
		"environment":       "has no variables from files",
		"hostname-override": "drops hostnameOverride",
		"container":         "drops the restart rules of containers",
		"duplicates":        "drops the restart rules of containers",
	},
	"35": {"devices": "the scheduler places no pod that has a claim which is allocated beside one that is not"},
}

// Of a manifest, only apiVersion and kind have to be changed: the Deployment becomes the one that the manifest itself
// would have made.
func TestManifests_SameDeployment(t *testing.T) {
	t.Parallel()
	if *podsFlag != "fake" {
		t.Skip("real nodes have neither the images nor the volumes and devices of these manifests")
	}
	minor := serverMinor(t)
	for i, m := range manifests(t, "") {
		t.Run(m.name, func(t *testing.T) {
			if why := lacking[minor][m.name]; why != "" {
				t.Skipf("Kubernetes 1.%s: %s", minor, why)
			}
			n := newNamespace(t)
			m := manifests(t, n.name)[i]
			for _, need := range m.needs {
				n.provide(need)
			}
			direct := n.applyDirectly(m)
			web := n.takeOver(m)
			reason := v1alpha1.ReasonRolledOut
			if replicas, _, _ := unstructured.NestedInt64(direct.Object, "spec", "replicas"); replicas == 0 {
				reason = v1alpha1.ReasonScaledToZero
			}
			web.await("is "+reason, func(g *v1alpha1.GuardedDeployment) bool {
				web.playTheOthers()
				return reasonOf(g) == reason
			})
			web.awaitDeployment("has been looked at", func(d *appsv1.Deployment) bool { return d.Status.ObservedGeneration >= d.Generation })
			web.checkSame(direct)
			if m.name != newer {
				web.checkStated()
			}
		})
	}
}

// serverMinor returns the second number of the API server's version.
func serverMinor(t *testing.T) string {
	t.Helper()
	version, err := cluster.kube.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	return version.Minor
}

// provide creates what the pods of a manifest need. It is gone with the test.
func (n *namespace) provide(object map[string]any) {
	n.Helper()
	client := n.resource(object)
	created, err := client.Create(n.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{})
	if err != nil {
		n.Fatalf("create %s: %v", object["kind"], err)
	}
	n.Cleanup(func() {
		if err := client.Delete(context.Background(), created.GetName(), metav1.DeleteOptions{}); err != nil {
			n.Error(err)
		}
	})
}

// resource returns a client for the kind of an object, in the namespace if the kind has one.
func (n *namespace) resource(object map[string]any) dynamic.ResourceInterface {
	n.Helper()
	kind := schema.FromAPIVersionAndKind(object["apiVersion"].(string), object["kind"].(string))
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(cluster.kube.Discovery()))
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		n.Fatal(err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return cluster.dynamic.Resource(mapping.Resource).Namespace(n.name)
	}
	return cluster.dynamic.Resource(mapping.Resource)
}

// newer is the manifest with the fields that only a newer API server knows.
const newer = "newer"

// create creates an object as "kubectl create" does: a field that the API server does not know is an error.
func (m manifest) create(n *namespace, object map[string]any) *unstructured.Unstructured {
	n.Helper()
	options := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if m.name == newer {
		options.FieldValidation = metav1.FieldValidationIgnore
	}
	created, err := n.resource(object).Create(n.Context(), &unstructured.Unstructured{Object: object}, options)
	if err != nil {
		n.Fatalf("create %s: %v", object["kind"], err)
	}
	return created
}

// applyDirectly creates the Deployment, and deletes it. It returns what the API server had made of it.
func (n *namespace) applyDirectly(m manifest) *unstructured.Unstructured {
	n.Helper()
	direct := m.create(n, m.deployment)
	if lost := absent(m.deployment["spec"], direct.Object["spec"]); len(lost) > 0 && m.name != newer {
		n.Errorf("the API server dropped %q from the Deployment: nothing is shown by them", lost)
	}
	background := metav1.DeletePropagationBackground
	client := n.resource(m.deployment)
	if err := client.Delete(n.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		n.Fatal(err)
	}
	n.eventually("the Deployment is gone", func(ctx context.Context) (bool, error) {
		left, err := client.List(ctx, metav1.ListOptions{})
		return err == nil && len(left.Items) == 0, err
	})
	return direct
}

// absent returns the paths of the fields that are stated and not in live.
func absent(stated, live any) []string {
	known := fieldsIn(live, "")
	return slices.DeleteFunc(fieldsIn(stated, ""), func(path string) bool { return slices.Contains(known, path) })
}

// takeOver creates the GuardedDeployment of a manifest.
func (n *namespace) takeOver(m manifest) *object {
	n.Helper()
	guarded := maps.Clone(m.deployment)
	guarded["apiVersion"], guarded["kind"] = v1alpha1.GroupVersion.String(), "GuardedDeployment"
	if m.name != "minimal" { // Saves half a minute.
		if err := unstructured.SetNestedMap(guarded, map[string]any{"soakSeconds": int64(1)}, "spec", "guard"); err != nil {
			n.Fatal(err)
		}
	}
	created := m.create(n, guarded)
	o := &object{namespace: n, name: "web", uid: created.GetUID()}
	o.wrote(created)
	return o
}

// playTheOthers does for the pods what controllers do that are not there: it lifts scheduling gates, schedules where
// the scheduler is another one, and says that readiness gates are met.
func (o *object) playTheOthers() {
	o.Helper()
	pods := cluster.kube.CoreV1().Pods(o.namespace.name)
	for _, pod := range o.pods() {
		var err error
		switch {
		case pod.DeletionTimestamp != nil:
		case len(pod.Spec.SchedulingGates) > 0:
			_, err = pods.Patch(o.Context(), pod.Name, types.MergePatchType, []byte(`{"spec":{"schedulingGates":null}}`), metav1.PatchOptions{})
		case pod.Spec.NodeName == "" && pod.Spec.SchedulerName == "own":
			err = pods.Bind(o.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
				Target: corev1.ObjectReference{Kind: "Node", Name: "node-0"}}, metav1.CreateOptions{})
		case len(pod.Spec.ReadinessGates) > 0 && len(pod.Status.Conditions) < 6:
			met := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"%s","status":"True"}]}}`, pod.Spec.ReadinessGates[0].ConditionType)
			_, err = pods.Patch(o.Context(), pod.Name, types.StrategicMergePatchType, met, metav1.PatchOptions{}, "status")
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // Pods come and go.
			o.Fatal(err)
		}
	}
}

// checkSame makes sure that the Deployment is the one that its manifest makes directly, but for what Belay adds.
func (o *object) checkSame(direct *unstructured.Unstructured) {
	o.Helper()
	live, err := o.resource(direct.Object).Get(o.Context(), o.name, metav1.GetOptions{})
	if err != nil {
		o.Fatal(err)
	}
	if diff := cmp.Diff(direct.Object["spec"], live.Object["spec"]); diff != "" {
		o.Errorf("the Deployment is not as its manifest makes it (-direct +by Belay):\n%s", diff)
	}
	var added []string
	for key := range live.GetLabels() {
		added = append(added, key)
	}
	for key := range live.GetAnnotations() {
		added = append(added, key)
	}
	slices.Sort(added)
	want := []string{v1alpha1.AppliedAnnotation, v1alpha1.GuardedLabel, v1alpha1.RevisionAnnotation, "deployment.kubernetes.io/revision"}
	if slices.Sort(want); !slices.Equal(added, want) || len(live.GetFinalizers()) > 0 || len(live.GetOwnerReferences()) != 1 {
		o.Errorf("the Deployment has labels and annotations %q, want %q; finalizers %q, owners %v", added, want, live.GetFinalizers(), live.GetOwnerReferences())
	}
	if writes := o.deploymentWrites(); len(writes) != 1 && o.counting() {
		o.Errorf("Belay wrote the Deployment %d times, want once:\n%s", len(writes), o.describeWrites())
	}
}

// checkStated makes sure that the Deployment has every value as it is stated. Where it has not, Belay has to remember that
// the API server wants it so, and writes once more after a restart.
func (o *object) checkStated() {
	o.Helper()
	if rollout.Accept(&appsv1.Deployment{Spec: o.get().Spec.DeploymentSpec}, o.deployment()) != "" {
		o.Error("a stated value is not in the Deployment: Belay would write it again after a restart")
	}
}

// A list in which two items must not be the same is refused at once where a Deployment's is, and the message says which.
// Where a Deployment accepts it, so does Belay: testdata/manifests/duplicates.yaml.
func TestManifests_Duplicates(t *testing.T) {
	n := newNamespace(t)
	item := map[string]any{"name": "a.example.com/x", "mountPath": "/x", "devicePath": "/x", "image": "localhost/web:1",
		"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": int64(1)}
	for list, keys := range map[string][]string{
		"containers":                  {"name", "image"},
		"initContainers":              {"name", "image"},
		"volumes":                     {"name"},
		"resourceClaims":              {"name"},
		"schedulingGates":             {"name"},
		"topologySpreadConstraints":   {"topologyKey", "whenUnsatisfiable", "maxSkew"},
		"containers[0].volumeMounts":  {"name", "mountPath"},
		"containers[0].volumeDevices": {"name", "devicePath"},
	} {
		same := map[string]any{}
		for _, key := range keys {
			same[key] = item[key]
		}
		pod := map[string]any{}
		container := map[string]any{"name": "web", "image": "localhost/web:1"}
		if inner, ok := strings.CutPrefix(list, "containers[0]."); ok {
			container[inner] = []any{same, same}
		}
		pod["containers"] = []any{container}
		if !strings.Contains(list, ".") {
			pod[list] = []any{same, same}
		}
		for _, kind := range []string{"apps/v1 Deployment", v1alpha1.GroupVersion.String() + " GuardedDeployment"} {
			version, kind, _ := strings.Cut(kind, " ")
			labels := map[string]any{"app": "web"}
			object := map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": "web"},
				"spec": map[string]any{"selector": map[string]any{"matchLabels": labels},
					"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": pod}}}
			_, err := n.resource(object).Create(n.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil || !strings.Contains(err.Error(), "spec.template.spec."+list+"[") {
				t.Errorf("%s with two equal %s: %v, want it refused, and told where", kind, list, err)
			} else if kind == "GuardedDeployment" && !strings.Contains(err.Error(), "Duplicate value: {") {
				t.Errorf("GuardedDeployment with two equal %s: %v, want it told what is there twice", list, err)
			}
		}
	}
}
