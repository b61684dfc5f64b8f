package inplace

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// Whatever an annotation or a flag says: it is refused, or it is settings that the CRD admits, and that are read as the same again. Those
// of a Namespace and of a Deployment go together, with what is unusable told.
func FuzzSettings(f *testing.F) {
	for _, text := range []string{"", "null", "{}", "[]", "soakSeconds: 60", `{"soakSeconds": 86400, "SOAKSECONDS": 1}`, "onFailure: Hold", `{"onFailure": "Hold ", "log": false}`,
		"toleratedPods: 10%", "toleratedPods: -1", `toleratedPods: "2147483648"`, "maxRestarts: 2147483647", "retries: 1e2", "retries: 0x10", "pinImages: Always", "a: &a [*a]", "stuckSeconds: 1.0",
		"soakSeconds: 1\nsoakSeconds: 2", "\x00", "---\n---", "{retries: !!int \"3\"}", "<<: {retries: 1}"} {
		f.Add(text, "soakSeconds: 5")
		f.Add("retries: 2", text)
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: map[string]string{v1alpha1.GuardAnnotation: text}}}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", Annotations: map[string]string{v1alpha1.GuardAnnotation: other}}}
		want, bad := Settings{}, false
		for _, text := range []string{text, other} {
			settings, err := ParseSettings(text)
			if bad = bad || err != nil; err == nil {
				checkSettings(t, settings)
				maps.Copy(want, settings)
			}
		}
		guard, unusable := newSettings(fake.NewClientset(namespace), nil).of(t.Context(), d)
		if bad != (unusable != "") {
			t.Errorf("unusable is %q", unusable)
		}
		if err := check(guard); err != nil {
			t.Errorf("together they are refused: %v", err)
		}
		var got Settings
		if data, err := json.Marshal(guard); err != nil || json.Unmarshal(data, &got) != nil || !reflect.DeepEqual(map[string]any(got), map[string]any(want)) {
			t.Errorf("together they are %v, want %v (%v)", got, want, err)
		}
	})
}

func checkSettings(t *testing.T, settings Settings) {
	t.Helper()
	data, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseSettings(string(data)); err != nil || !reflect.DeepEqual(again, settings) {
		t.Errorf("%s becomes %v, %v", data, again, err)
	}
	known := []string{"onFailure", "maxRestarts", "stuckSeconds", "soakSeconds", "toleratedPods", "retries", "pinImages", "log"}
	for name := range settings {
		if !slices.Contains(known, name) {
			t.Errorf("there is no setting %q", name)
		}
	}
}
