package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rivalOf returns who changed the value at path, as Decision.Correction names it: the field manager, other than manager,
// that the API server says owns it. Nobody owns what was removed, and changes by admission are on the account of whoever
// sent the request: then it is the manager that wrote last. Empty if there is no other.
func rivalOf(live *appsv1.Deployment, path, manager string) string {
	others := slices.DeleteFunc(slices.Clone(live.ManagedFields), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == manager || e.Subresource == "status"
	})
	slices.SortStableFunc(others, func(a, b metav1.ManagedFieldsEntry) int {
		return timeOf(b.Time).Compare(timeOf(a.Time).Time)
	})
	var object map[string]any
	bare := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Labels: live.Labels, Annotations: live.Annotations}, Spec: live.Spec}
	if data, err := json.Marshal(bare); err != nil || json.Unmarshal(data, &object) != nil {
		return ""
	}
	for _, entry := range others {
		var fields map[string]any
		if entry.FieldsV1 != nil && json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) == nil && owns(fields, object, path) {
			return entry.Manager
		}
	}
	if len(others) > 0 {
		return others[0].Manager
	}
	return ""
}

func timeOf(t *metav1.Time) metav1.Time {
	if t == nil {
		return metav1.Time{}
	}
	return *t
}

// owns reports whether a set of fields, in the API server's format, has the value at path of object.
func owns(fields map[string]any, object any, path string) bool {
	if path == "" || (len(fields) == 0 && fields != nil) {
		return true
	}
	for key, below := range fields {
		below, _ := below.(map[string]any)
		kind, name, _ := strings.Cut(key, ":")
		switch kind {
		case "f": // a field of a struct, or a key of a map
			values, _ := object.(map[string]any)
			for _, written := range []string{name, "." + name, "[" + name + "]"} {
				if rest, found := strings.CutPrefix(path, written); found && endsName(rest) && owns(below, values[name], rest) {
					return true
				}
			}
		case "k": // an item of a list, by its keys
			items, _ := object.([]any)
			for i, item := range items {
				rest, found := strings.CutPrefix(path, fmt.Sprintf("[%d]", i))
				if found && hasKeys(item, name) && owns(below, item, rest) {
					return true
				}
			}
		}
	}
	return false
}

// endsName reports whether a path that goes on with rest has a name's end here.
func endsName(rest string) bool { return rest == "" || rest[0] == '.' || rest[0] == '[' }

// hasKeys reports whether an item has all values of a JSON object of keys.
func hasKeys(item any, keys string) bool {
	var values map[string]any
	return json.Unmarshal([]byte(keys), &values) == nil && difference("", values, item) == ""
}
