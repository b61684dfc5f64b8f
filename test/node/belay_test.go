package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// belayPods are all pods in the namespace, which is Belay's alone.
func (s *story) belayPods() []corev1.Pod {
	s.Helper()
	pods, err := s.kube.CoreV1().Pods(belayNamespace).List(s.Context(), metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return pods.Items
}

// checkVersion makes sure that the pod runs the image as it was stamped.
func (s *story) checkVersion(pod corev1.Pod) {
	s.Helper()
	log := s.kubectl("logs", pod.Name, "-n", pod.Namespace)
	if !strings.Contains(log, belayVersion) {
		s.Errorf("%s does not say that it is %s:\n%s", pod.Name, belayVersion, log)
	}
}

// leaseHolder is the identity that the Lease names.
func (s *story) leaseHolder() string {
	s.Helper()
	lease, err := s.kube.CoordinationV1().Leases(belayNamespace).Get(s.Context(), belayName, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// leader is the identity of the leader and its process.
func (s *story) leader() (identity string, pid int) {
	s.Helper()
	identity = s.leaseHolder()
	for _, pod := range s.belayPods() {
		if strings.HasPrefix(identity, pod.Name+"_") {
			return identity, s.pid(pod)
		}
	}
	s.Fatalf("no pod is the leader %q", identity)
	return "", 0
}

// pid is the process of a pod of one container.
func (s *story) pid(pod corev1.Pod) int {
	s.Helper()
	if len(pod.Status.ContainerStatuses) != 1 {
		s.Fatalf("pod %s has %d containers", pod.Name, len(pod.Status.ContainerStatuses))
	}
	pid, err := s.node.task(s.Context(), firstWorker, strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://"))
	if err != nil {
		s.Fatal(err)
	}
	return pid
}

// residentMiB is the memory of a process.
func residentMiB(s *story, pid int) float64 {
	s.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if field := strings.Fields(line); len(field) > 1 && field[0] == "VmRSS:" {
			kib, err := strconv.ParseFloat(field[1], 64)
			if err != nil {
				s.Fatal(err)
			}
			return kib / 1024
		}
	}
	s.Fatalf("no VmRSS in %s", status)
	return 0
}

// move is a write of Belay's with which the Deployment changes its revision.
type move struct {
	Verb      string
	UserAgent string
	ObjectRef struct{ Namespace, Resource, Subresource, Name string }
	User      struct{ Extra map[string][]string }
	Response  struct{ Code int } `json:"responseStatus"`
	Body      appsv1.Deployment  `json:"requestObject"`
	At        time.Time          `json:"requestReceivedTimestamp"`
}

// pod is who wrote.
func (m move) pod() string {
	return strings.Join(m.User.Extra["authentication.kubernetes.io/pod-name"], ",")
}

// moves reads all of them so far from the audit log, which is complete when a request is answered.
func (s *story) moves() (moves []move) {
	s.Helper()
	data, err := os.ReadFile(s.node.auditLog())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Fatal(err)
	}
	revision := ""
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, `"userAgent":"belay/`) || !strings.Contains(line, `"resource":"deployments"`) || !strings.HasSuffix(line, "\n") {
			continue
		}
		var m move
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			s.Fatal(err)
		}
		if m.Verb != "create" && m.Verb != "update" || m.ObjectRef.Name != name || m.ObjectRef.Subresource != "" || m.Response.Code >= 300 {
			continue
		}
		if r := m.Body.Annotations[v1alpha1.RevisionAnnotation]; r != revision {
			revision, moves = r, append(moves, m)
		}
	}
	return moves
}
