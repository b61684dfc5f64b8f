package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// contend starts a process that takes part in the election of the namespace.
func contend(n *namespace, kubeconfig, identity, leaseDuration, renewDeadline string, args ...string) *example {
	n.Helper()
	return startExampleWith(n.T, func(*exec.Cmd) {}, "leader-election", append([]string{"--kubeconfig", kubeconfig, "--namespace", n.name,
		"--identity", identity, "--lease-duration", leaseDuration, "--renew-deadline", renewDeadline, "--retry-period", "500ms"}, args...)...)
}

// said returns when the program printed this line, each time.
func (p *example) said(line string) (times []time.Time) {
	p.t.Helper()
	for printed := range strings.Lines(p.stdout.String()) {
		clock, text, _ := strings.Cut(strings.TrimSpace(printed), " ")
		at, err := time.Parse("15:04:05.000", clock)
		if err != nil {
			p.t.Fatalf("%q begins with no time: %v", printed, err)
		}
		if text == line {
			times = append(times, at)
		}
	}
	return times
}

// between returns the time from one line to another, which may be after midnight.
func between(one, other time.Time) time.Duration {
	took := other.Sub(one)
	if took < -12*time.Hour {
		took += 24 * time.Hour
	}
	return took
}

// succeeds waits until b works. It returns how long after the last line of a that was.
func succeeds(a, b *example, last string) time.Duration {
	a.t.Helper()
	b.prints("b works")
	lines := a.said(last)
	if len(lines) == 0 {
		a.t.Fatalf("a never said %q", last)
	}
	return between(lines[len(lines)-1], b.said("b works")[0])
}

func TestExampleLeaderElection_HandsOver(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	a := contend(n, cluster.kubeconfig, "a", "15s", "10s", "--drain", "2s")
	a.prints("a works")
	b := contend(n, cluster.kubeconfig, "b", "15s", "10s")
	b.prints("a leads")
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.ends(0)
	if took := succeeds(a, b, "a has ended its work"); took < 0 || took > 5*time.Second {
		t.Errorf("b worked %s after a had ended its work, want it after that, and well before the Lease would end", took)
	}
	ended, given := a.said("a has ended its work"), a.said("a has given the Lease back")
	told := a.said("a is to end its work: terminated signal received")
	if len(told) != 1 || len(given) != 1 || between(told[0], ended[0]) < 2*time.Second || between(ended[0], given[0]) < 0 {
		t.Errorf("told to end %v, ended %v, given back %v: want 2s for the work, then the Lease", told, ended, given)
	}
	b.interrupt()
	for _, p := range []*example{a, b} {
		for line := range strings.Lines(p.stderr.String()) {
			if !strings.Contains(line, `err="context canceled"`) { // A renewal under way at the end is cut short, and client-go says so.
				t.Errorf("%s printed on standard error: %s", p.cmd.Args[0], line)
			}
		}
	}
	lease, err := cluster.kube.CoordinationV1().Leases(n.name).Get(t.Context(), "tour", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		t.Errorf("the Lease is %+v, %v, want it held by nobody", lease.Spec, err)
	}
}

func TestExampleLeaderElection_Killed(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	a := contend(n, cluster.kubeconfig, "a", "8s", "6s")
	a.prints("a works")
	b := contend(n, cluster.kubeconfig, "b", "8s", "6s")
	b.prints("a leads")
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	b.prints("b works")
	// The Lease was renewed for the last time a moment before, and b looks at it now and then.
	if took := time.Since(killed); took < 5*time.Second || took > 16*time.Second {
		t.Errorf("b worked %s after a was killed, want about 8s", took)
	}
	if len(a.said("a has ended its work")) > 0 {
		t.Error("a ended its work: this test shows nothing")
	}
	b.interrupt()
}

// Who cannot renew ends its work before the next one begins, and says why it ends.
func TestExampleLeaderElection_LeaseLost(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	relay := newRelay(t)
	a := contend(n, through(t, relay), "a", "12s", "4s")
	a.prints("a works")
	b := contend(n, cluster.kubeconfig, "b", "12s", "4s")
	b.prints("a leads")
	relay.Close()
	relay.cut()
	a.ends(1)
	lines := strings.Split(strings.TrimSpace(a.stderr.String()), "\n")
	if last := lines[len(lines)-1]; last != "leader-election: the Lease is lost, and another process may lead now" {
		t.Errorf("the last line is %q", last)
	}
	if took := succeeds(a, b, "a has ended its work"); took < 0 {
		t.Errorf("b worked %s before a had ended its work", -took)
	}
	b.interrupt()
}

// A right that is missing is said at once, also one that is needed only to lead.
func TestExampleLeaderElection_WithoutRights(t *testing.T) {
	t.Parallel()
	n := emptyNamespace(t)
	kubeconfig := n.accountThatMay("get leases.coordination.k8s.io", "create leases.coordination.k8s.io")
	p := contend(n, kubeconfig, "a", "15s", "10s")
	p.ends(1)
	says(t, p.stderr.String(), "leader-election: leases.coordination.k8s.io", "cannot update")
	if strings.Count(p.stderr.String(), "\n") != 1 {
		t.Errorf("want one line, got:\n%s", p.stderr)
	}
}

// accountThatMay returns a kubeconfig of an account that has these rights in the namespace, and no others. A right is as
// rightsOf lists it.
func (n *namespace) accountThatMay(rights ...string) (kubeconfig string) {
	n.Helper()
	const name = "limited"
	kubeconfig = n.newAccount(name)
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, right := range rights {
		verb, what, _ := strings.Cut(right, " ")
		resource, group, _ := strings.Cut(what, ".")
		role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}})
	}
	if _, err := cluster.kube.RbacV1().Roles(n.name).Create(n.Context(), role, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
	n.bindAccount(rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, n.name, name)
	for _, right := range rights {
		n.awaitRight("system:serviceaccount:"+n.name+":"+name, right, true)
	}
	return kubeconfig
}
