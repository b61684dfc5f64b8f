package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/belay-dev/belay/test/auditlog"
)

// Every belay of the tests is the ServiceAccount that the manifests install, with the roles that they bind to it: what
// Belay does without having been given the right fails a test.

const (
	systemNamespace = "belay-system"
	accountName     = "belay"
	accountUser     = "system:serviceaccount:" + systemNamespace + ":" + accountName
)

// tacit are the rights of the role that no request shows.
var tacit = map[string]string{
	"update guardeddeployments.belay.dev/finalizers": "the API server asks for it when Belay sets blockOwnerDeletion: TestOwnBelay/LeastPrivilege/finalizers",
	"hold replicasets.apps":                          "a policy asks for it when Belay holds a ReplicaSet: TestInPlace_HoldByHand",
}

// optional are the rights that belay can do without: no start waits for them.
var optional = []string{"list events", "get nodes", "get pods/log", "get configmaps", "get secrets",
	"patch deployments.apps/status", "patch replicasets.apps", "hold replicasets.apps", "get namespaces"}

// everybodys are rights that belay uses and every user has, by system:basic-user.
var everybodys = []string{"create selfsubjectaccessreviews.authorization.k8s.io"}

// account is the ServiceAccount of belay.
var account struct {
	kubeconfig string
	granted    []string // what the roles that are bound to it grant
	from       int64    // where the audit log ended before it did anything
}

// kubectlPath returns the kubectl beside the kubeconfig, or else the one in PATH.
func kubectlPath() (string, error) {
	if kubectl := filepath.Join(filepath.Dir(cluster.kubeconfig), "bin", "kubectl"); exists(kubectl) {
		return kubectl, nil
	}
	return exec.LookPath("kubectl")
}

// kustomize returns what a directory below artifacts installs.
func kustomize(dir string) ([]*unstructured.Unstructured, error) {
	kubectl, err := kubectlPath()
	if err != nil {
		return nil, fmt.Errorf("the manifests need kubectl, beside the kubeconfig or in PATH: %w", err)
	}
	cmd := exec.Command(kubectl, "kustomize", filepath.Join(root, "artifacts", dir))
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl kustomize %s: %w", dir, err)
	}
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(out), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := documents.Decode(&object.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
}

// accountManifests returns the manifests of the controller, and of the rights that are not installed by default.
func accountManifests() ([]*unstructured.Unstructured, error) {
	objects, err := kustomize("controller")
	if err != nil {
		return nil, err
	}
	for _, more := range []string{"references", "in-place"} {
		also, err := kustomize(more)
		if err != nil {
			return nil, err
		}
		objects = append(objects, also...)
	}
	return objects, nil
}

// installAccount installs the ServiceAccount of belay, and what it may do.
func installAccount() error {
	ctx := context.Background()
	if cluster.audit != nil && account.from == 0 {
		info, err := os.Stat(cluster.audit.path)
		if err != nil {
			return err
		}
		account.from = info.Size()
	}
	objects, err := accountManifests()
	if err != nil {
		return err
	}
	_, err = cluster.kube.CoreV1().Namespaces().Get(ctx, systemNamespace, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	ours := apierrors.IsNotFound(err) // and to be removed again
	account.granted = nil
	bound := map[string]bool{}
	rules := map[string][]rbacv1.PolicyRule{}
	var install []byte
	for _, object := range objects {
		switch object.GetKind() {
		case "Namespace", "ServiceAccount":
		case "Role", "ClusterRole":
			role := rbacv1.ClusterRole{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &role); err != nil {
				return err
			}
			rules[role.Name] = role.Rules
		case "RoleBinding", "ClusterRoleBinding":
			name, _, _ := unstructured.NestedString(object.Object, "roleRef", "name")
			bound[name] = true
		default:
			continue // The tests run belay by themselves.
		}
		document, err := object.MarshalJSON()
		if err != nil {
			return err
		}
		install = append(install, document...)
		if strings.HasPrefix(object.GetKind(), "ClusterRole") && ours {
			leave(func() error {
				_, err := kubectl(nil, "delete", "--ignore-not-found", object.GetKind(), object.GetName())
				return err
			})
		}
	}
	for name := range bound {
		account.granted = append(account.granted, rightsOf(rules[name])...)
	}
	if _, err := kubectl(install, "apply", "-f", "-"); err != nil {
		return err
	}
	if ours {
		if _, err := kubectl(nil, "label", "namespace", systemNamespace, runLabel+"="+cluster.run); err != nil {
			return err
		}
	}
	account.kubeconfig, err = kubeconfigOf(ctx, systemNamespace, accountName, cluster.scratch)
	return err
}

// kubectl runs kubectl as the user of the tests.
func kubectl(stdin []byte, args ...string) (output string, err error) {
	path, err := kubectlPath()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, append([]string{"--kubeconfig", cluster.kubeconfig}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// kubeconfigOf writes a kubeconfig of a ServiceAccount into dir, and returns its path.
func kubeconfigOf(ctx context.Context, namespace, name, dir string) (string, error) {
	token, err := tokenOf(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, namespace+"."+name+".kubeconfig")
	return path, writeKubeconfig(path, cluster.config.Host, token)
}

func tokenOf(ctx context.Context, namespace, name string) (string, error) {
	token, err := cluster.kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(2 * 60 * 60))}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("a token for %s/%s: %w", namespace, name, err)
	}
	return token.Status.Token, nil
}

func writeKubeconfig(path, server, token string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: cluster.config.CAFile,
		CertificateAuthorityData: cluster.config.CAData, InsecureSkipTLSVerify: cluster.config.Insecure}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	return clientcmd.WriteToFile(*config, path)
}

// rightsOf lists rules as "verb resource.group/subresource", with "=name" behind it where a rule is for one name.
func rightsOf(rules []rbacv1.PolicyRule) (rights []string) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					right := rightTo(verb, group, resource)
					if len(rule.ResourceNames) > 0 {
						right += "=" + strings.Join(rule.ResourceNames, ",")
					}
					rights = append(rights, right)
				}
			}
		}
	}
	return rights
}

func rightTo(verb, group, resource string) string {
	resource, subresource, _ := strings.Cut(resource, "/")
	return strings.TrimSuffix(verb+" "+strings.TrimSuffix(resource+"."+group, ".")+"/"+subresource, "/")
}

// asked is what the API server was asked for by the account, and whether it was allowed to.
type asked struct {
	User        struct{ Username string }
	Verb        string
	RequestURI  string
	ObjectRef   struct{ Namespace, APIGroup, Resource, Subresource, Name string }
	Annotations map[string]string
}

// right returns the right that the request needs, as rightsOf lists it.
func (a asked) right() string {
	resource := a.ObjectRef.Resource
	if a.ObjectRef.Subresource != "" {
		resource += "/" + a.ObjectRef.Subresource
	}
	return rightTo(a.Verb, a.ObjectRef.APIGroup, resource)
}

// usedRights reads from the audit log which rights the account used, and which requests it was forbidden for lack of one.
func usedRights() (used, forbidden []string, err error) {
	all, no := map[string]bool{}, map[string]bool{}
	_, err = auditlog.Read(cluster.audit.path, account.from, accountUser, func(line []byte) error {
		var a asked
		if err := json.Unmarshal(line, &a); err != nil {
			return err
		}
		if a.User.Username != accountUser || a.ObjectRef.Resource == "" {
			return nil
		}
		right := a.right()
		if slices.Contains(account.granted, right+"="+a.ObjectRef.Name) {
			right += "=" + a.ObjectRef.Name
		}
		all[right] = true
		if a.Annotations["authorization.k8s.io/decision"] == "forbid" {
			no[right+", forbidden: "+a.RequestURI] = true
		}
		return nil
	})
	return slices.Sorted(maps.Keys(all)), slices.Sorted(maps.Keys(no)), err
}

// checkRights compares, after all tests, what belay was given with what it used.
func checkRights() error {
	whole := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
	if cluster.audit == nil || !whole || *externalFlag {
		return nil
	}
	used, forbidden, err := usedRights()
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	unused := slices.DeleteFunc(slices.Clone(account.granted), func(right string) bool {
		return slices.Contains(used, right) || tacit[right] != ""
	})
	ungranted := append(forbidden, slices.DeleteFunc(used, func(right string) bool {
		return slices.Contains(account.granted, right) || slices.Contains(everybodys, right)
	})...)
	figures.count("rights granted", len(account.granted), -1)
	figures.count("rights granted but unused", len(unused), 0)
	figures.count("rights used but not granted", len(ungranted), 0)
	if len(unused)+len(ungranted) > 0 {
		return fmt.Errorf("rights of belay granted but unused: %q; used but not granted: %q", unused, ungranted)
	}
	return nil
}

// mayAdopt lets Belay take Deployments over in the namespace: where OwnerReferencesPermissionEnforcement is on, that
// takes the right to delete them, which is never used.
func (n *namespace) mayAdopt() {
	n.Helper()
	if *externalFlag {
		return // What that one may do is not up to the tests.
	}
	n.bindAccount(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "belay-adopt"}, systemNamespace, accountName)
	n.awaitRight(accountUser, "delete deployments.apps", true)
}

// awaitRight waits until the API server knows that the user has the right in the namespace, or has it no more. A right
// is as rightsOf lists it.
func (n *namespace) awaitRight(user, right string, want bool) {
	n.Helper()
	verb, what, _ := strings.Cut(right, " ")
	what, name, _ := strings.Cut(what, "=")
	what, subresource, _ := strings.Cut(what, "/")
	resource, group, _ := strings.Cut(what, ".")
	n.eventually(fmt.Sprintf("%s may %s: %v", user, right, want), func(ctx context.Context) (bool, error) {
		review, err := cluster.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: n.name, Verb: verb, Group: group, Resource: resource, Subresource: subresource, Name: name}},
		}, metav1.CreateOptions{})
		return err == nil && review.Status.Allowed == want, err
	})
}

// bindAccount binds a role to a ServiceAccount, in the namespace.
func (n *namespace) bindAccount(role rbacv1.RoleRef, namespace, name string) {
	n.Helper()
	_, err := cluster.kube.RbacV1().RoleBindings(n.name).Create(n.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}, RoleRef: role,
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
}

// newAccount creates a ServiceAccount in the namespace, and returns a kubeconfig of it.
func (n *namespace) newAccount(name string) (kubeconfig string) {
	n.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := cluster.kube.CoreV1().ServiceAccounts(n.name).Create(n.Context(), account, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
	kubeconfig, err := kubeconfigOf(n.Context(), n.name, name, n.TempDir())
	if err != nil {
		n.Fatal(err)
	}
	return kubeconfig
}
