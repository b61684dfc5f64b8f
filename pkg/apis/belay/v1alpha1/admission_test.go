package v1alpha1_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/randfill"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// admission does to an object what the API server does with artifacts/crd.yaml, by means of the server's own packages.
type admission struct {
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

func newAdmission(t *testing.T) *admission {
	t.Helper()
	props := internal(t, readCRD(t)).Spec.Validation.OpenAPIV3Schema
	structural, err := structuralschema.NewStructural(props)
	if err != nil {
		t.Fatal(err)
	}
	schema, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		t.Fatal(err)
	}
	return &admission{structural, schema, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
}

// decode prunes and defaults the object, and returns the fields that the server does not know.
func (a *admission) decode(object map[string]any) (unknown []string) {
	unknown = pruning.PruneWithOptions(object, a.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	defaulting.PruneNonNullableNullsWithoutDefaults(object, a.structural)
	defaulting.Default(object, a.structural)
	return unknown
}

// admit returns why the decoded object is refused, in the server's words. The object is new if old is nil.
func (a *admission) admit(ctx context.Context, object, old map[string]any) (refusals []string) {
	errs := validation.ValidateCustomResource(nil, object, a.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, a.structural, object)...)
	var oldObject any // not a nil map
	if old != nil {
		oldObject = old
	}
	byRule, _ := a.rules.Validate(ctx, nil, a.structural, object, oldObject, celconfig.RuntimeCELCostBudget)
	for _, err := range append(errs, byRule...) {
		refusals = append(refusals, err.Error())
	}
	return refusals
}

// An ordinary Deployment, but for its kind, as people and tools write them.
const manifest = `
apiVersion: belay.dev/v1alpha1
kind: GuardedDeployment
metadata: {name: web, namespace: default, creationTimestamp: null}
spec:
  replicas: 3
  revisionHistoryLimit:
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      creationTimestamp: null
      labels: {app: web, tier: front}
      annotations: {example.com/checksum: "1e3", example.com/none: null}
    spec:
      nodeSelector:
      volumes:
      - {name: data, emptyDir: {sizeLimit: 512Mi}}
      - name: all
        projected:
          defaultMode: 0640
          sources:
          - secret: {name: a, items: [{key: k, path: p}]}
          - downwardAPI: {items: [{path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}]}
          - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - name: scratch
        ephemeral:
          volumeClaimTemplate:
            metadata: {creationTimestamp: null, labels: {a: b}}
            spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1.5e9}}}
      initContainers:
      - {name: sidecar, image: "example.com/s:1", restartPolicy: Always, env: null}
      containers:
      - name: c
        image: example.com/c:1
        ports: [{containerPort: 80}, {containerPort: 80, name: twice}, {containerPort: 80, protocol: UDP}]
        env:
        - {name: A, value: "1"}
        - {name: A, value: "the last one counts"}
        - {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: C, valueFrom: {configMapKeyRef: {name: m, key: k, optional: true}}}
        resources: {requests: {cpu: 0.5, memory: 1Gi}, limits: {cpu: 2, memory: "2e9", example.com/gpu: null}}
        livenessProbe: {httpGet: {path: /, port: http}, periodSeconds: 5}
        readinessProbe: {tcpSocket: {port: 80}}
        startupProbe: {grpc: {port: 90}}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
        securityContext: {runAsUser: 65532, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
        volumeMounts: [{name: data, mountPath: /data, mountPropagation: None}]
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, podAffinityTerm: {topologyKey: zone, labelSelector: {matchLabels: {app: web}}}}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchExpressions: [{key: app, operator: Exists}]}}
      tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 30}]
      terminationGracePeriodSeconds: 30
`

// A manifest is stored as it was written, and what Go reads from it means the same.
func TestAdmission_Unchanged(t *testing.T) {
	a := newAdmission(t)
	object := parse(t, manifest)
	if unknown := a.decode(object); len(unknown) > 0 {
		t.Errorf("unknown fields: %v", unknown)
	}
	if refusals := a.admit(t.Context(), object, nil); len(refusals) > 0 {
		t.Errorf("refused: %q", refusals)
	}

	want := parse(t, manifest)
	guard := map[string]any{"onFailure": "Rollback", "maxRestarts": int64(3), "stuckSeconds": int64(120), "toleratedPods": int64(0), "soakSeconds": int64(30), "retries": int64(0), "log": true,
		"pinImages": "WhenMoved"}
	want["spec"].(map[string]any)["guard"] = guard
	want["status"] = map[string]any{"observedGeneration": int64(-1)}
	if diff := cmp.Diff(want, object); diff != "" {
		t.Errorf("the stored object is another (-written +stored):\n%s", diff)
	}

	var written, stored v1alpha1.GuardedDeployment
	if err := yaml.Unmarshal([]byte(manifest), &written); err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, &stored); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(written.Spec.Template, stored.Spec.Template) {
		t.Errorf("the template means something else:\n%s", cmp.Diff(written.Spec.Template, stored.Spec.Template))
	}
}

// Every field of the library's types goes through the schema unchanged.
func TestAdmission_NothingPruned(t *testing.T) {
	a := newAdmission(t)
	for seed := range int64(20) {
		var filled v1alpha1.GuardedDeployment
		randfill.NewWithSeed(seed).NilChance(0).NumElements(1, 2).MaxDepth(100).Funcs(
			func(q *resource.Quantity, c randfill.Continue) {
				*q = *resource.NewMilliQuantity(c.Int63n(1e6), resource.DecimalSI)
			},
			func(i *intstr.IntOrString, c randfill.Continue) {
				*i = []intstr.IntOrString{intstr.FromInt32(c.Int31()), intstr.FromString("10%")}[c.Intn(2)]
			},
			func(m *metav1.ObjectMeta, c randfill.Continue) {
				m.Name, m.Namespace = c.String(0), c.String(0)
				c.Fill(&m.Labels)
				c.Fill(&m.Annotations)
				c.Fill(&m.Finalizers)
			},
			func(m *metav1.TypeMeta, _ randfill.Continue) {
				m.APIVersion, m.Kind = "belay.dev/v1alpha1", "GuardedDeployment"
			},
			func(f *v1alpha1.OnFailure, _ randfill.Continue) { *f = v1alpha1.Hold }, // left out, it has a default
			func(f *v1alpha1.PinImages, _ randfill.Continue) { *f = v1alpha1.PinNever },
			func(s *v1alpha1.GuardedDeploymentStatus, _ randfill.Continue) {}, // not the users'
		).Fill(&filled)
		filled.Status.ObservedGeneration = max(filled.Status.ObservedGeneration, 1) // There is no generation 0: it is left out.

		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&filled)
		if err != nil {
			t.Fatal(err)
		}
		if unknown := a.decode(object); len(unknown) > 0 {
			t.Fatalf("pruned: %v", unknown)
		}
		var back v1alpha1.GuardedDeployment
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, &back); err != nil {
			t.Fatal(err)
		}
		if !equality.Semantic.DeepEqual(filled, back) {
			t.Fatalf("seed %d: what comes back is another:\n%s", seed, cmp.Diff(filled, back))
		}
	}
}

func TestAdmission(t *testing.T) {
	const (
		cpu     = "spec.template.spec.containers.0.resources.limits.cpu"
		created = "spec.template.metadata.creationTimestamp"
		claimed = "spec.template.spec.volumes.2.ephemeral.volumeClaimTemplate.metadata.creationTimestamp"
	)
	expression := func(operator string, values ...any) edit {
		e := map[string]any{"key": "app", "operator": operator}
		if len(values) > 0 {
			e["values"] = values
		}
		return set("spec.selector", map[string]any{"matchExpressions": []any{e}})
	}

	a := newAdmission(t)
	for name, test := range map[string]struct {
		edits []edit
		want  string // part of the refusal; "" if it is admitted
	}{
		"as it is": {nil, ""},

		"replicas left out":  {[]edit{drop("spec.replicas")}, ""},
		"replicas 0":         {[]edit{set("spec.replicas", 0)}, ""},
		"replicas negative":  {[]edit{set("spec.replicas", -1)}, "spec.replicas in body should be greater than or equal to 0"},
		"replicas too large": {[]edit{set("spec.replicas", 1<<31)}, "int32 in spec.replicas"},

		"minReadySeconds negative":      {[]edit{set("spec.minReadySeconds", -1)}, "spec.minReadySeconds in body should be greater than or equal to 0"},
		"revisionHistoryLimit negative": {[]edit{set("spec.revisionHistoryLimit", -1)}, "spec.revisionHistoryLimit in body should be greater than or equal to 0"},
		"revisionHistoryLimit 0":        {[]edit{set("spec.revisionHistoryLimit", 0)}, ""},

		"deadline 0":                             {[]edit{set("spec.progressDeadlineSeconds", 0)}, "spec.progressDeadlineSeconds in body should be greater than or equal to 1"},
		"deadline 1":                             {[]edit{set("spec.progressDeadlineSeconds", 1)}, ""},
		"deadline equal to minReadySeconds":      {[]edit{set("spec.progressDeadlineSeconds", 30), set("spec.minReadySeconds", 30)}, "spec.progressDeadlineSeconds: Invalid value: must be greater than spec.minReadySeconds"},
		"deadline above minReadySeconds":         {[]edit{set("spec.progressDeadlineSeconds", 31), set("spec.minReadySeconds", 30)}, ""},
		"deadline left out, minReadySeconds 600": {[]edit{set("spec.minReadySeconds", 600)}, "must be greater than spec.minReadySeconds (left out, it is 600)"},
		"deadline left out, minReadySeconds 599": {[]edit{set("spec.minReadySeconds", 599)}, ""},

		"deadline and minReadySeconds null":  {[]edit{set("spec.progressDeadlineSeconds", nil), set("spec.minReadySeconds", nil)}, ""},
		"deadline null, minReadySeconds 600": {[]edit{set("spec.progressDeadlineSeconds", nil), set("spec.minReadySeconds", 600)}, "must be greater than spec.minReadySeconds"},

		"selector left out":        {[]edit{drop("spec.selector")}, "spec.selector: Required value"},
		"selector empty":           {[]edit{set("spec.selector", map[string]any{})}, "spec.selector: Invalid value: must not be empty"},
		"selector of empty parts":  {[]edit{set("spec.selector", map[string]any{"matchLabels": map[string]any{}, "matchExpressions": []any{}})}, "spec.selector: Invalid value: must not be empty"},
		"selector: other value":    {[]edit{set("spec.selector.matchLabels.app", "api")}, "spec.selector.matchLabels: Invalid value: must all be among spec.template.metadata.labels"},
		"selector: other label":    {[]edit{set("spec.selector.matchLabels.role", "web")}, "spec.selector.matchLabels: Invalid value: must all be among spec.template.metadata.labels"},
		"selector: long value":     {[]edit{set("spec.selector.matchLabels.app", strings.Repeat("a", 64))}, "may not be more than 63"},
		"selector: Exists holds":   {[]edit{expression("Exists")}, ""},
		"selector: DoesNotExist":   {[]edit{expression("DoesNotExist")}, "spec.selector.matchExpressions: Invalid value: must all hold"},
		"selector: In holds":       {[]edit{expression("In", "a", "web")}, ""},
		"selector: In fails":       {[]edit{expression("In", "a", "b")}, "spec.selector.matchExpressions: Invalid value: must all hold"},
		"selector: In nothing":     {[]edit{expression("In")}, "In and NotIn need values"},
		"selector: NotIn holds":    {[]edit{expression("NotIn", "a")}, ""},
		"selector: NotIn fails":    {[]edit{expression("NotIn", "a", "web")}, "spec.selector.matchExpressions: Invalid value: must all hold"},
		"selector: NotIn nothing":  {[]edit{expression("NotIn")}, "In and NotIn need values"},
		"selector: other operator": {[]edit{expression("Equals", "web")}, `supported values: "In", "NotIn", "Exists", "DoesNotExist"`},

		"template left out":           {[]edit{drop("spec.template")}, "spec.template: Required value"},
		"template without metadata":   {[]edit{drop("spec.template.metadata")}, "spec.template.metadata: Required value"},
		"template without labels":     {[]edit{drop("spec.template.metadata.labels")}, "spec.template.metadata.labels: Required value"},
		"template with null labels":   {[]edit{set("spec.template.metadata.labels", nil)}, "spec.template.metadata.labels: Required value"},
		"template with null metadata": {[]edit{set("spec.template.metadata", nil)}, "spec.template.metadata: Required value"},
		"template with a null spec":   {[]edit{set("spec.template.spec", nil)}, "spec.template.spec: Required value"},
		"template with a null label":  {[]edit{set("spec.template.metadata.labels.app", nil)}, "spec.selector.matchLabels: Invalid value: must all be among"},
		"template without a spec":     {[]edit{drop("spec.template.spec")}, "spec.template.spec: Required value"},
		"template without container":  {[]edit{set("spec.template.spec.containers", []any{})}, "spec.template.spec.containers in body should have at least 1 items"},

		"strategy unknown":     {[]edit{set("spec.strategy.type", "BlueGreen")}, "spec.strategy.type in body should match '^(RollingUpdate|Recreate)$'"},
		"strategy null":        {[]edit{set("spec.strategy.type", nil), set("spec.strategy.rollingUpdate.maxSurge", nil)}, ""},
		"selector parts null":  {[]edit{set("spec.selector.matchExpressions", nil)}, ""},
		"selector of nulls":    {[]edit{set("spec.selector", map[string]any{"matchLabels": nil, "matchExpressions": nil})}, "spec.selector: Invalid value: must not be empty"},
		"an argument null":     {[]edit{set("spec.template.spec.containers.0.args", []any{nil})}, ""},
		"maxSurge a number":    {[]edit{set("spec.strategy.rollingUpdate.maxSurge", 2)}, ""},
		"maxSurge too large":   {[]edit{set("spec.strategy.rollingUpdate.maxSurge", 1<<31)}, "maxSurge in body should be less than or equal to 2147483647"},
		"quantity a number":    {[]edit{set(cpu, 0.25)}, ""},
		"quantity a string":    {[]edit{set(cpu, "250m")}, ""},
		"quantity a power":     {[]edit{set(cpu, "1e3")}, ""},
		"quantity wrong":       {[]edit{set(cpu, "250x")}, "cpu in body should match"},
		"quantity of an age":   {[]edit{set(cpu, "1e2147483648")}, "cpu in body should match"}, // takes Go minutes to decode
		"quantity undecodable": {[]edit{set(cpu, "1e0.5")}, "cpu in body should match"},
		"quantity a boolean":   {[]edit{set(cpu, true)}, "cpu\" must not validate the schema (not)"},
		"quantity a list":      {[]edit{set(cpu, []any{"1"})}, "cpu: Too many"},
		"quantity no list":     {[]edit{set(cpu, []any{})}, "cpu in body should have at least 1 items"},
		"quantity an object":   {[]edit{set(cpu, map[string]any{"a": "1"})}, "cpu: Too many"},
		"quantity no object":   {[]edit{set(cpu, map[string]any{})}, "cpu in body should have at least 1 properties"},

		"time":                     {[]edit{set(created, "2026-01-01T00:00:00.5+14:00")}, ""},
		"time without a zone":      {[]edit{set(created, "2026-01-01T00:00:00")}, "creationTimestamp in body should match"},
		"time of no zone":          {[]edit{set(created, "2026-01-01T00:00:00+99:99")}, "creationTimestamp in body should match"},
		"time of a 24 hours' zone": {[]edit{set(created, "2026-01-01T00:00:00+24:00")}, "creationTimestamp in body should match"},
		"time before the years":    {[]edit{set(created, "0000-01-01T00:00:00+23:59")}, "creationTimestamp in body should match"},
		"time of no day":           {[]edit{set(created, "2026-02-30T00:00:00Z")}, "creationTimestamp in body must be of type date-time"},
		"time of no hour":          {[]edit{set(created, "2026-01-01T24:00:00Z")}, "creationTimestamp in body must be of type date-time"},
		"time a leap second":       {[]edit{set(created, "2026-06-30T23:59:60Z")}, "creationTimestamp in body must be of type date-time"},
		"time a list":              {[]edit{set(created, []any{"2026-01-01T00:00:00Z"})}, "creationTimestamp: Too many"},
		"time no list":             {[]edit{set(created, []any{})}, "creationTimestamp in body should have at least 1 items"},
		"time of a claim a list":   {[]edit{set(claimed, []any{})}, "creationTimestamp in body should have at least 1 items"},
		"time of a claim, no zone": {[]edit{set(claimed, "2026-01-01T00:00:00+25:00")}, "creationTimestamp in body should match"},

		"guard: Hold":                  {[]edit{set("spec.guard.onFailure", "Hold")}, ""},
		"guard: never pinned":          {[]edit{set("spec.guard.pinImages", "Never")}, ""},
		"guard: unknown pinImages":     {[]edit{set("spec.guard.pinImages", "Sometimes")}, `spec.guard.pinImages: Unsupported value: "Sometimes": supported values: "WhenMoved", "Never", "Always"`},
		"guard: unknown onFailure":     {[]edit{set("spec.guard.onFailure", "Explode")}, `spec.guard.onFailure: Unsupported value: "Explode": supported values: "Rollback", "Hold"`},
		"guard: all 0":                 {[]edit{set("spec.guard", map[string]any{"maxRestarts": int64(0), "stuckSeconds": int64(0), "soakSeconds": int64(0), "retries": int64(0), "log": true})}, ""},
		"guard: maxRestarts negative":  {[]edit{set("spec.guard.maxRestarts", -1)}, "spec.guard.maxRestarts in body should be greater than or equal to 0"},
		"guard: stuckSeconds negative": {[]edit{set("spec.guard.stuckSeconds", -1)}, "spec.guard.stuckSeconds in body should be greater than or equal to 0"},
		"guard: soakSeconds negative":  {[]edit{set("spec.guard.soakSeconds", -1)}, "spec.guard.soakSeconds in body should be greater than or equal to 0"},
		"guard: retries negative":      {[]edit{set("spec.guard.retries", -1)}, "spec.guard.retries in body should be greater than or equal to 0"},
		"guard: a string":              {[]edit{set("spec.guard.maxRestarts", "3")}, "spec.guard.maxRestarts in body must be of type integer"},
	} {
		t.Run(name, func(t *testing.T) {
			object := parse(t, manifest)
			for _, edit := range test.edits {
				edit(object)
			}
			a.decode(object)
			refusals := a.admit(t.Context(), object, nil)
			if test.want == "" && len(refusals) > 0 {
				t.Errorf("refused: %q", refusals)
			}
			if !slices.ContainsFunc(refusals, func(r string) bool { return strings.Contains(r, test.want) }) && test.want != "" {
				t.Errorf("got refusals %q, want one with %q", refusals, test.want)
			}
			if test.want == "" {
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object, new(v1alpha1.GuardedDeployment)); err != nil {
					t.Errorf("admitted, but Go cannot decode it: %v", err)
				}
			}
		})
	}
}

func TestAdmission_UnknownField(t *testing.T) {
	object := parse(t, manifest)
	set("spec.guard.maxRestart", 1)(object)
	set("spec.template.spec.containers.0.imagePolicy", "Always")(object)
	want := []string{"spec.guard.maxRestart", "spec.template.spec.containers[0].imagePolicy"}
	if got := newAdmission(t).decode(object); !slices.Equal(got, want) {
		t.Errorf("unknown fields %v, want %v", got, want)
	}
}

func TestAdmission_SelectorImmutable(t *testing.T) {
	a := newAdmission(t)
	old, object := parse(t, manifest), parse(t, manifest)
	a.decode(old)
	set("spec.selector.matchLabels.tier", "front")(object)
	set("spec.template.spec.containers.0.image", "example.com/c:2")(object)
	a.decode(object)
	if refusals := a.admit(t.Context(), object, nil); len(refusals) > 0 {
		t.Fatalf("not a fair test: refused when new: %q", refusals)
	}
	refusals := a.admit(t.Context(), object, old)
	if len(refusals) != 1 || !strings.Contains(refusals[0], "spec.selector: Invalid value: is immutable") {
		t.Errorf("got refusals %q", refusals)
	}
	object["spec"].(map[string]any)["selector"] = old["spec"].(map[string]any)["selector"]
	if refusals := a.admit(t.Context(), object, old); len(refusals) > 0 {
		t.Errorf("a new image is refused: %q", refusals)
	}
}

// An edit changes an object at a path of names and indexes with dots between; what is missing on the way is made.
type edit func(object map[string]any)

func set(path string, value any) edit {
	if n, ok := value.(int); ok {
		value = int64(n) // as the server decodes it
	}
	return func(object map[string]any) { parent, name := parentOf(object, path); parent[name] = value }
}

func drop(path string) edit {
	return func(object map[string]any) { parent, name := parentOf(object, path); delete(parent, name) }
}

func parentOf(object map[string]any, path string) (parent map[string]any, name string) {
	steps := strings.Split(path, ".")
	var at any = object
	for _, step := range steps[:len(steps)-1] {
		switch v := at.(type) {
		case []any:
			at = v[step[0]-'0']
		case map[string]any:
			if v[step] == nil {
				v[step] = map[string]any{}
			}
			at = v[step]
		}
	}
	return at.(map[string]any), steps[len(steps)-1]
}

func parse(t *testing.T, document string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	object := map[string]any{}
	if err := utiljson.Unmarshal(data, &object); err != nil {
		t.Fatal(err)
	}
	return object
}
