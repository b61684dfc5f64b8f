package rollout

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	lua "github.com/yuin/gopher-lua"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

const argocd = "../../artifacts/argocd"

// health is what a health check of Argo CD returns.
type health struct{ Status, Message string }

// argoHealth runs artifacts/argocd/health.lua on an object as Argo CD does: in a fresh state, with Lua's basic and table functions and
// nothing else. Argo CD waits for a second; here a busy machine may take longer, as long as there is an end.
func argoHealth(t *testing.T, object any) health {
	t.Helper()
	data, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var obj any
	if err := json.Unmarshal(data, &obj); err != nil {
		t.Fatal(err)
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", luaValue(state, obj))
	if err := state.DoString(readArtifact(t, "health.lua")); err != nil {
		t.Fatalf("of %s: %v", data, err)
	}
	returned, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("of %s it returns %v", data, state.Get(-1))
	}
	status, isText := returned.RawGetString("status").(lua.LString)
	message, isTextToo := returned.RawGetString("message").(lua.LString)
	if !isText || !isTextToo {
		t.Fatalf("of %s it returns %v and %v", data, returned.RawGetString("status"), returned.RawGetString("message"))
	}
	return health{string(status), string(message)}
}

// luaValue returns a JSON value as Argo CD hands it to a script.
func luaValue(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		list := state.NewTable()
		for _, element := range value {
			list.Append(luaValue(state, element))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, element := range value {
			table.RawSetString(key, luaValue(state, element))
		}
		return table
	default:
		return lua.LNil
	}
}

func readArtifact(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(argocd, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What nobody has reported on, or what is not as it should be, is on its way at best.
func TestArgoCD_IncompleteObjects(t *testing.T) {
	const waiting = "Waiting for Belay to report on this spec"
	for _, row := range []struct {
		object string
		want   health
	}{
		{`{}`, health{"Progressing", waiting}},
		{`null`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": null}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": "good"}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": -1}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": "1", "conditions": [{"type": "Ready", "status": "True"}]}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": null}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": "Ready"}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": {"Ready": true}}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": ["Ready", 1, {}, {"type": "Ready"}]}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "Unknown", "message": "?"}]}}`, health{"Progressing", "?"}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}}`, health{"Healthy", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": true, "message": 1}]}}`, health{"Progressing", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Stalled", "status": "True"}]}}`, health{"Degraded", waiting}},
		{`{"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [{"type": "Stalled", "status": "True", "message": "bad"}]}}`, health{"Degraded", "bad"}},
		{`{"status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True", "message": "good"}]}}`, health{"Healthy", "good"}},
	} {
		if got := argoHealth(t, json.RawMessage(row.object)); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.object, got, row.want)
		}
	}
}

func TestArgoCD_ConfigMapHasTheHealthCheck(t *testing.T) {
	var patch corev1.ConfigMap
	if err := yaml.UnmarshalStrict([]byte(readArtifact(t, "argocd-cm.yaml")), &patch); err != nil {
		t.Fatal(err)
	}
	key := "resource.customizations.health." + v1alpha1.GroupName + "_GuardedDeployment"
	if patch.Name != "argocd-cm" || len(patch.Data) != 1 || patch.Data[key] != readArtifact(t, "health.lua") {
		t.Errorf("%s of ConfigMap %s is not health.lua: write it anew, indented", key, patch.Name)
	}
}
