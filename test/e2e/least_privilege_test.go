package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// withoutWatchList has belay list before it watches, as it does with a server before Kubernetes 1.34.
const withoutWatchList = "KUBE_FEATURE_WatchListClient=false"

// limited is a belay of a ServiceAccount of its own, in the namespace of a test, with rights that the test chooses.
type limited struct {
	*namespace
	user            string
	relay           *relay
	health, metrics string // addresses
}

// newDeployed returns a belay that does not run yet.
func newDeployed(t *testing.T) *limited {
	t.Helper()
	return &limited{namespace: emptyNamespace(t), health: freeAddress(t), metrics: freeAddress(t)}
}

// newLimited returns a belay that does not run yet, and has the rights.
func newLimited(t *testing.T, rights []string) *limited {
	t.Helper()
	l := newDeployed(t)
	l.lacks = true
	l.user = "system:serviceaccount:" + l.name + ":belay"
	roles := cluster.kube.RbacV1()
	meta := metav1.ObjectMeta{Name: "belay"}
	if _, err := roles.Roles(l.name).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.bindAccount(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "belay"}, l.name, "belay")
	meta.Name = l.name
	remove := func() error {
		ctx := context.Background()
		return ignoreNotFound(roles.ClusterRoleBindings().Delete(ctx, l.name, metav1.DeleteOptions{}), roles.ClusterRoles().Delete(ctx, l.name, metav1.DeleteOptions{}))
	}
	forget := leave(remove)
	t.Cleanup(func() {
		forget()
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	if _, err := roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := roles.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: l.name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: l.name, Name: "belay"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.grant(rights)
	return l
}

// grant gives the rights, and takes away all others.
func (l *limited) grant(rights []string) {
	l.Helper()
	own, everywhere := &rbacv1.Role{}, &rbacv1.ClusterRole{}
	own.Name, everywhere.Name = "belay", l.name
	for _, right := range rights {
		rule := ruleOf(right)
		if strings.HasSuffix(rule.Resources[0], "reviews") || rule.Resources[0] == "nodes" || rule.Resources[0] == "namespaces" {
			everywhere.Rules = append(everywhere.Rules, rule)
		} else {
			own.Rules = append(own.Rules, rule)
		}
	}
	if _, err := cluster.kube.RbacV1().Roles(l.name).Update(l.Context(), own, metav1.UpdateOptions{}); err != nil {
		l.Fatal(err)
	}
	if _, err := cluster.kube.RbacV1().ClusterRoles().Update(l.Context(), everywhere, metav1.UpdateOptions{}); err != nil {
		l.Fatal(err)
	}
	for _, right := range account.granted {
		l.awaitRight(l.user, right, slices.Contains(rights, right))
	}
}

// ruleOf returns the rule that grants one right, as rightsOf lists it.
func ruleOf(right string) rbacv1.PolicyRule {
	verb, what, _ := strings.Cut(right, " ")
	what, name, named := strings.Cut(what, "=")
	what, subresource, sub := strings.Cut(what, "/")
	resource, group, _ := strings.Cut(what, ".")
	if sub {
		resource += "/" + subresource
	}
	rule := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}
	if named {
		rule.ResourceNames = []string{name}
	}
	return rule
}

// startCut runs belay as it is deployed, for this namespace only, by connections that can be cut.
func (l *limited) startCut(environment ...string) {
	l.Helper()
	l.relay = newRelay(l.T)
	path := l.newAccount("belay")
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		l.Fatal(err)
	}
	server, err := url.Parse(cluster.config.Host)
	if err != nil {
		l.Fatal(err)
	}
	config.Clusters["c"].Server, config.Clusters["c"].TLSServerName = "https://"+l.relay.Addr().String(), server.Hostname()
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		l.Fatal(err)
	}
	l.start(path, "controller", environment, "--namespace", l.name, "--leader-elect-namespace", l.name)
}

// start runs belay with the arguments that a directory below artifacts deploys it with, on addresses of its own, and
// with more.
func (l *limited) start(kubeconfig, dir string, environment []string, more ...string) {
	l.Helper()
	objects, err := kustomize(dir)
	if err != nil {
		l.Fatal(err)
	}
	args := []string{"--kubeconfig", kubeconfig}
	for _, object := range objects {
		if object.GetKind() != "Deployment" {
			continue
		}
		containers, _, _ := unstructured.NestedSlice(object.Object, "spec", "template", "spec", "containers")
		stated, _, _ := unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
		args = append(args, stated...)
	}
	for i := range args {
		args[i] = strings.NewReplacer("$(NAMESPACE)", l.name, ":8081", l.health, ":8443", l.metrics, ":8080", l.metrics).Replace(args[i])
	}
	if l.belay, err = startProcessIn(environment, filepath.Join(l.TempDir(), "belay.log"), append(args, more...)...); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := l.belay.stop(); err != nil {
			l.Error(err)
		}
	})
}

// portsTaken counts the ports that freeAddress has tried.
var portsTaken atomic.Int32

// freeAddress returns a port, as an address on all interfaces, that stays free until belay listens there, which may be
// long after: it is below those that the kernel gives to connections and above those of the local cluster.
func freeAddress(t *testing.T) string {
	t.Helper()
	const first, ports = 27000, 5000
	for range ports {
		address := fmt.Sprintf(":%d", first+(os.Getpid()*100+int(portsTaken.Add(1)))%ports)
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// ready returns what /readyz says.
func (l *limited) ready(ctx context.Context) (code int, body string) {
	return get(ctx, "http://127.0.0.1"+l.health+"/readyz", "")
}

// scrape asks for the metrics.
func (l *limited) scrape(ctx context.Context, token string) (code int, body string) {
	return get(ctx, "https://127.0.0.1"+l.metrics+"/metrics", token)
}

// get returns the answer to a GET; the code is 0 if there is none.
func get(ctx context.Context, url, token string) (code int, body string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // It signs for itself.
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(text)
}

func (l *limited) awaitReadyz(want int) {
	l.Helper()
	var code int
	var body string
	defer func() {
		if l.Failed() {
			l.Logf("/readyz: %d %s; the log ends with:\n%s", code, body, tail(l.belay.log, "", 15))
		}
	}()
	l.eventually(fmt.Sprintf("/readyz is %d", want), func(ctx context.Context) (bool, error) {
		code, body = l.ready(ctx)
		return code == want, nil
	})
}

// awaitLog waits until belay has logged a line that matches, after the offset.
func (l *limited) awaitLog(offset int64, pattern string) {
	l.Helper()
	expression := regexp.MustCompile(pattern)
	defer func() {
		if l.Failed() {
			l.Logf("the log ends with:\n%s", tail(l.belay.log, "", 15))
		}
	}()
	l.eventually("the log says "+pattern, func(context.Context) (bool, error) {
		data, err := os.ReadFile(l.belay.log)
		return err == nil && expression.Match(data[min(offset, int64(len(data))):]), err
	})
}

func (l *limited) logged() int64 {
	info, err := os.Stat(l.belay.log)
	if err != nil {
		l.Fatal(err)
	}
	return info.Size()
}

// provoke is what makes belay use a right, when it is not a release.
var provoke = map[string]func(*limited, *object){
	"create deployments.apps":                 func(l *limited, _ *object) { l.create("other", template(good, "1"), replicas(1), soak(0)) },
	"list controllerrevisions.apps":           func(l *limited, _ *object) { l.create("bad", template(crash, "1"), replicas(1), maxRestarts(0)) },
	"get controllerrevisions.apps":            func(_ *limited, web *object) { web.update(replicas(2)) },
	"patch events.events.k8s.io":              (*limited).addStrays,
	"create leases.coordination.k8s.io":       (*limited).deleteLease,
	"get leases.coordination.k8s.io=belay":    (*limited).deleteLease,
	"update leases.coordination.k8s.io=belay": func(*limited, *object) {}, // every two seconds
}

func (l *limited) deleteLease(*object) {
	l.Helper()
	if err := cluster.kube.CoordinationV1().Leases(l.name).Delete(l.Context(), "belay", metav1.DeleteOptions{}); err != nil {
		l.Fatal(err)
	}
}

// Belay can do all that it does with the rights of the manifests, and needs each of them.
func testLeastPrivilege(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"as deployed": deployedUsesAllRights, "as deployed in a namespace": deployedInNamespace, "finalizers": finalizersAreNeeded,
		"without what is optional": optionalIsNotMissed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
	for _, right := range needed() {
		t.Run("without "+right, func(t *testing.T) {
			t.Parallel()
			rightIsMissed(t, right)
		})
	}
}

// needed are the rights of the manifests that belay cannot do without.
func needed() []string {
	return slices.DeleteFunc(slices.Clone(account.granted), func(right string) bool { return slices.Contains(optional, right) })
}

// addStrays creates two Deployments, one after the other, that belay tells of with the same Event.
func (l *limited) addStrays(web *object) {
	l.Helper()
	for _, name := range []string{"stray-1", "stray-2"} {
		d := anyDeployment("1")
		d.Name, d.Labels, d.Spec.Replicas = name, map[string]string{v1alpha1.GuardedLabel: "true"}, new(int32(0))
		d.OwnerReferences = web.claimed(web.uid)
		if _, err := cluster.kube.AppsV1().Deployments(l.name).Create(l.Context(), d, metav1.CreateOptions{}); err != nil {
			l.Fatal(err)
		}
		if name == "stray-1" {
			web.awaitEvents(v1alpha1.ReasonInvalid, 1) // Both at once would be one Event.
		}
	}
}

// Without one of its rights, whichever it is, belay says which and waits until it has it; and when one is taken away
// while it works, it says so and goes on as soon as it is given back.
func rightIsMissed(t *testing.T, right string) {
	without := slices.DeleteFunc(slices.Clone(account.granted), func(r string) bool { return r == right })
	verb, resource := ruleOf(right).Verbs[0], ruleOf(right).Resources[0]
	l := newLimited(t, without)
	var environment []string
	if verb == "list" {
		environment = append(environment, withoutWatchList)
	}
	l.startCut(environment...)
	l.awaitLog(0, fmt.Sprintf(`(?m)^.*missing.*\b%s %s\b.*$`, verb, resource))
	l.awaitReadyz(http.StatusServiceUnavailable)
	if _, body := l.ready(t.Context()); !strings.Contains(body, verb+" "+resource) {
		t.Errorf("/readyz does not say what is missing: %s", body)
	}
	l.grant(account.granted)
	l.awaitReadyz(http.StatusOK)
	web := l.create("web", template(good, "1"), replicas(1), soak(0), func(g *v1alpha1.GuardedDeployment) { g.Spec.RevisionHistoryLimit = new(int32(0)) })
	web.awaitReady()
	web.release(template(good, "2")) // From the next one on, there is something to prune.
	web.awaitReady()

	switch right {
	case "list guardeddeployments.belay.dev", "list deployments.apps": // A start, or a watch that has been away too long, lists; what else does says nothing.
		return
	case "update guardeddeployments.belay.dev/finalizers": // finalizersAreNeeded takes it away.
		return
	}
	offset := l.logged()
	l.grant(without)
	if verb == "watch" {
		l.relay.cut()
	}
	switch act := provoke[right]; {
	case strings.HasSuffix(resource, "reviews"):
		token, err := tokenOf(t.Context(), l.name, "belay")
		if err != nil {
			t.Fatal(err)
		}
		if code, body := l.scrape(t.Context(), token); code != http.StatusInternalServerError {
			t.Errorf("the metrics answer %d, want %d: %s", code, http.StatusInternalServerError, body)
		}
	case act != nil:
		act(l, web)
	default:
		web.release(template(good, "3"))
	}
	l.awaitLog(offset, fmt.Sprintf(`cannot %s resource \\*"%s\\*"`, verb, resource))
	l.grant(account.granted)
	web.release(template(good, "4"))
	web.awaitReady()
	l.awaitReadyz(http.StatusOK)
}

// Without the rights to read Events, Nodes, logs, ConfigMaps and Secrets, and those to guard in place, belay starts, and judges.
func optionalIsNotMissed(t *testing.T) {
	for _, right := range optional {
		if !slices.Contains(account.granted, right) {
			t.Errorf("%q is not granted", right)
		}
	}
	l := newLimited(t, needed())
	l.startCut()
	l.awaitReadyz(http.StatusOK)
	web := l.createReady("web", template(good, "1"), replicas(1), soak(0), deadline(10))
	a := web.get().Status.GoodRevision
	web.release(template(unready, "2"))
	web.awaitRolledBack(v1alpha1.FailureDeadlineExceeded, a)
}

// The one right that no request shows, where the API server looks at owner references.
func finalizersAreNeeded(t *testing.T) {
	for right := range tacit {
		if !slices.Contains(account.granted, right) {
			t.Errorf("%q is not granted, and not missed here", right)
		}
	}
	l := newLimited(t, account.granted)
	l.startCut()
	l.awaitReadyz(http.StatusOK)
	l.grant(slices.DeleteFunc(slices.Clone(account.granted), func(right string) bool { return tacit[right] != "" }))
	web := l.create("web", template(good, "1"), soak(0))
	g := web.await("is refused or ready", func(g *v1alpha1.GuardedDeployment) bool {
		return slices.Contains([]string{v1alpha1.ReasonDenied, v1alpha1.ReasonRolledOut}, reasonOf(g))
	})
	if reasonOf(g) == v1alpha1.ReasonRolledOut {
		t.Skip("the admission plugin OwnerReferencesPermissionEnforcement is off here")
	}
	if !strings.Contains(message(g), "cannot set blockOwnerDeletion") {
		t.Errorf("the condition does not tell what is missing: %q", message(g))
	}
	if _, err := cluster.kube.AppsV1().Deployments(l.name).Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("there is a Deployment: %v", err)
	}
	l.grant(account.granted)
	web.release(template(good, "2")) // The same would be tried again after five minutes.
	web.awaitReady()
}

// As it is deployed: with a Lease, and metrics for those who may see them.
func deployedUsesAllRights(t *testing.T) {
	l := newDeployed(t)
	leases := cluster.kube.CoordinationV1().Leases(systemNamespace)
	if err := ignoreNotFound(leases.Delete(t.Context(), "belay", metav1.DeleteOptions{})); err != nil {
		t.Fatal(err)
	}
	l.start(account.kubeconfig, "controller", []string{withoutWatchList}, "--namespace", l.name, "--leader-elect-namespace", systemNamespace)
	l.awaitReadyz(http.StatusOK)
	web := l.createReady("web", template(good, "1"), soak(0))
	l.addStrays(web)
	web.awaitEvents(v1alpha1.ReasonInvalid, 2) // the second as a patch of the first
	lease, err := leases.Get(t.Context(), "belay", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.eventually("the Lease is renewed", func(ctx context.Context) (bool, error) {
		now, err := leases.Get(ctx, "belay", metav1.GetOptions{})
		return err == nil && now.Spec.RenewTime.After(lease.Spec.RenewTime.Time), err
	})
	l.checkScrape()
}

// In its namespace it does all that it does anywhere, and elsewhere nothing.
func deployedInNamespace(t *testing.T) {
	l, elsewhere := newDeployed(t), emptyNamespace(t)
	dir, err := os.MkdirTemp(filepath.Join(root, "artifacts"), "e2e-") // kustomize takes no bases by absolute paths.
	if err != nil {
		t.Fatal(err)
	}
	forget := leave(func() error { return os.RemoveAll(dir) })
	t.Cleanup(func() { forget(); _ = os.RemoveAll(dir) })
	overlay := "namespace: " + l.name + "\nresources: [../namespaced, ../namespaced/in-place]\nreplicas: [{name: belay, count: 0}]\n"
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := l.tryKubectl("apply", "-k", dir); err != nil || strings.Contains(out, "Warning") {
		t.Fatalf("%v\n%s", err, out)
	}
	kubeconfig, err := kubeconfigOf(t.Context(), l.name, "belay", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.start(kubeconfig, "namespaced", nil, "--leader-elect-namespace", l.name)
	l.awaitReadyz(http.StatusOK)
	if code, body := get(t.Context(), "http://127.0.0.1"+l.metrics+"/metrics", ""); code != http.StatusOK || !strings.Contains(body, "workqueue_depth") {
		t.Errorf("the metrics: %d %s", code, body)
	}
	ignored := elsewhere.create("web", template(good, "1"))
	web := l.createReady("web", template(good, "1"))
	a := web.get().Status.GoodRevision
	web.release(template(crash, "2"))
	web.awaitRolledBack(v1alpha1.FailureCrashLoop, a)
	if cluster.holds {
		l.inPlace = true
		l.annotate(`{"onFailure": "Hold", "soakSeconds": 2, "maxRestarts": 1}`) // The Namespace may be read, though no other one.
		plain := l.guarded("in-place", template(good, "1"), withoutSettings)
		plain.release(template(crash, "2"))
		plain.awaitEvents(v1alpha1.ReasonHeld, 1)
		plain.update(settings(`{"onFailure": "Rollback"}`))
		plain.awaitRolledBack()
	}
	for _, right := range account.granted {
		elsewhere.awaitRight("system:serviceaccount:"+l.name+":belay", right, false)
	}
	if g := ignored.get(); len(g.Status.Conditions) > 0 {
		t.Errorf("a GuardedDeployment in another namespace has a status: %+v", g.Status)
	}
}

// checkScrape makes sure that the metrics are for those who have the role belay-metrics-reader.
func (l *limited) checkScrape() {
	l.Helper()
	n := l.namespace
	for _, name := range []string{"reader", "other"} {
		n.newAccount(name)
	}
	remove := func() error {
		return ignoreNotFound(cluster.kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), n.name, metav1.DeleteOptions{}))
	}
	forget := leave(remove)
	n.Cleanup(func() { forget(); _ = remove() })
	_, err := cluster.kube.RbacV1().ClusterRoleBindings().Create(n.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: n.name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "belay-metrics-reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: n.name, Name: "reader"}}}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	for name, want := range map[string]int{"": http.StatusUnauthorized, "other": http.StatusForbidden, "reader": http.StatusOK} {
		token := ""
		if name != "" {
			if token, err = tokenOf(n.Context(), n.name, name); err != nil {
				n.Fatal(err)
			}
		}
		var code int
		n.eventually(fmt.Sprintf("the metrics answer %d to %q", want, name), func(ctx context.Context) (bool, error) {
			code, _ = l.scrape(ctx, token)
			return code == want, nil
		})
	}
}
