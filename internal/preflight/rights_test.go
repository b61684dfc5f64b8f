package preflight

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// rolesOf returns the rules of the Roles and ClusterRoles in a manifest, by name.
func rolesOf(t *testing.T, path string) map[string][]rbacv1.PolicyRule {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string][]rbacv1.PolicyRule{}
	for document := range strings.SplitSeq(string(data), "\n---\n") {
		role := rbacv1.ClusterRole{}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(role.Kind, "Role") {
			roles[role.Name] = role.Rules
		}
	}
	return roles
}

// listed lists what rules grant, as preflight names it, with the object where it is for one only.
func listed(rules []rbacv1.PolicyRule) (list []string) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s.%s %s", verb, resource, group, strings.Join(rule.ResourceNames, ","))))
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

// Whoever has the roles is not told that a right is missing, and they have nothing that is not needed. With one namespace
// and metrics on loopback, the first two are enough.
func TestRoles_GrantWhatIsRequired(t *testing.T) {
	roles := rolesOf(t, "../../artifacts/controller/rbac.yaml")
	for _, deployed := range []struct {
		name   string
		config Config
		roles  []string
	}{
		{"in the cluster", Config{LeaseNamespace: "belay-system", LeaseName: "belay", Reviews: true},
			[]string{"belay", "belay-leader-election", "belay-metrics-auth"}},
		{"in a namespace", Config{Namespace: "team-a", LeaseNamespace: "team-a", LeaseName: "belay"},
			[]string{"belay", "belay-leader-election"}},
		{"outside of the cluster", Config{}, []string{"belay"}},
	} {
		var granted []rbacv1.PolicyRule
		for _, role := range deployed.roles {
			granted = append(granted, roles[role]...)
		}
		var asked []rbacv1.PolicyRule
		for _, right := range required(deployed.config) {
			asked = append(asked, rbacv1.PolicyRule{APIGroups: []string{right.group}, Resources: []string{right.resource},
				ResourceNames: strings.Fields(right.name), Verbs: strings.Fields(right.verbs)})
		}
		if diff := cmp.Diff(listed(asked), listed(granted)); diff != "" {
			t.Errorf("%s, what preflight asks for (-) is not what the roles grant (+):\n%s", deployed.name, diff)
		}
	}
}

// What a stolen token of Belay's must not be good for.
func TestRoles_GrantNothingDangerous(t *testing.T) {
	roles := rolesOf(t, "../../artifacts/controller/rbac.yaml")
	for _, name := range []string{"belay", "belay-leader-election", "belay-metrics-auth", "belay-metrics-reader", "belay-adopt"} {
		if len(roles[name]) == 0 {
			t.Errorf("there is no role %s with rules", name)
		}
	}
	for name, rules := range roles {
		for _, rule := range rules {
			for _, part := range slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs, rule.NonResourceURLs) {
				if strings.Contains(part, "*") || slices.Contains([]string{"escalate", "bind", "impersonate", "deletecollection"}, part) {
					t.Errorf("%s grants %q: %v", name, part, rule)
				}
			}
			for _, resource := range rule.Resources {
				switch kind, _, _ := strings.Cut(resource, "/"); kind {
				case "secrets", "configmaps", "serviceaccounts", "nodes", "roles", "rolebindings", "clusterroles", "clusterrolebindings":
					t.Errorf("%s grants %v on %s", name, rule.Verbs, resource)
				case "deployments", "pods":
					if slices.Contains(rule.Verbs, "delete") && name != "belay-adopt" { // bound to nobody
						t.Errorf("%s grants to delete %s", name, resource)
					}
				}
			}
		}
	}
}

// The rights that Belay can do without are in files of their own, so that they can be left out, and are no more than that: no
// start waits for them.
func TestRoles_EvidenceIsOptional(t *testing.T) {
	for file, want := range map[string]map[string][]string{
		"evidence.yaml":                 {"belay-events": {"list events."}, "belay-nodes": {"get nodes."}},
		"log.yaml":                      {"belay-log": {"get pods/log."}},
		"../references/references.yaml": {"belay-references": {"get configmaps.", "get secrets."}},
		"../in-place/rbac.yaml":         {"belay-in-place": {"get namespaces.", "hold replicasets.apps", "patch deployments/status.apps", "patch replicasets.apps"}},
	} {
		got := map[string][]string{}
		for name, rules := range rolesOf(t, "../../artifacts/controller/"+file) {
			got[name] = listed(rules)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	for _, right := range required(Config{}) {
		if right.group == "" && right.resource != "pods" {
			t.Errorf("a start waits for %s %s", right.verbs, right.resource)
		}
	}
}

// Only the roles that are meant to be are bound: belay-adopt and belay-metrics-reader are for others to bind.
func TestRoles_AreBound(t *testing.T) {
	var manifests string
	for _, file := range []string{"rbac.yaml", "evidence.yaml", "log.yaml", "../references/references.yaml", "../in-place/rbac.yaml"} {
		data, err := os.ReadFile("../../artifacts/controller/" + file)
		if err != nil {
			t.Fatal(err)
		}
		manifests += string(data) + "\n---\n"
	}
	var bound []string
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		binding := rbacv1.ClusterRoleBinding{}
		if err := yaml.Unmarshal([]byte(document), &binding); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(binding.Kind, "Binding") {
			continue
		}
		bound = append(bound, binding.RoleRef.Name)
		if len(binding.Subjects) != 1 || binding.Subjects[0].Kind != rbacv1.ServiceAccountKind || binding.Subjects[0].Name != "belay" {
			t.Errorf("%s is bound to %v, want the ServiceAccount belay alone", binding.RoleRef.Name, binding.Subjects)
		}
	}
	slices.Sort(bound)
	if want := []string{"belay", "belay-events", "belay-in-place", "belay-leader-election", "belay-log", "belay-metrics-auth", "belay-nodes", "belay-references"}; !slices.Equal(bound, want) {
		t.Errorf("bound are %q, want %q", bound, want)
	}
}
