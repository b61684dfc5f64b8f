package fakecluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubefake "k8s.io/client-go/kubernetes/fake"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// Log is what a container has written, or the error that a request for it is answered with.
type Log struct {
	Text  string
	Err   *apierrors.StatusError
	Hangs bool // nothing comes after the text, not even an end; without text, no answer
}

// logOf names a log.
type logOf struct {
	pod, container string
	previous       bool
}

// SetLog says what a container has written, in the run before the present one if previous. An empty name is any pod's. The logs
// of the others are empty.
func (c *Cluster) SetLog(pod, container string, previous bool, log Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logs[logOf{pod, container, previous}] = log
}

// logFor returns the log that is asked for, and an error if there is none: no such pod, or no run before the present one.
func (c *Cluster) logFor(namespace string, of logOf) (Log, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, err := c.find(corev1.SchemeGroupVersion.WithResource("pods"), namespace, of.pod)
	if err != nil {
		return Log{}, err
	}
	for _, pod := range []string{of.pod, ""} {
		if log, set := c.logs[logOf{pod, of.container, of.previous}]; set && log.Err != nil {
			return Log{}, log.Err
		} else if set {
			return log, nil
		}
	}
	for _, container := range found.(*corev1.Pod).Status.ContainerStatuses {
		if container.Name == of.container && container.LastTerminationState.Terminated != nil {
			return Log{}, nil
		}
	}
	if of.previous {
		return Log{}, apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", of.container, of.pod))
	}
	return Log{}, nil
}

// Kube is a fake clientset that can be asked for logs, and for objects without their content. The fake one alone forgets whose logs,
// and cannot hang; it has no RESTClient.
type Kube struct {
	*kubefake.Clientset
	wire coreclient.CoreV1Interface
}

func (k *Kube) CoreV1() coreclient.CoreV1Interface { return kubeCore{k.Clientset.CoreV1(), k.wire} }

type kubeCore struct {
	coreclient.CoreV1Interface
	wire coreclient.CoreV1Interface
}

func (c kubeCore) Pods(namespace string) coreclient.PodInterface {
	return kubePods{c.CoreV1Interface.Pods(namespace), c.wire.Pods(namespace)}
}

func (c kubeCore) RESTClient() rest.Interface { return c.wire.RESTClient() }

type kubePods struct {
	coreclient.PodInterface
	logs coreclient.PodInterface
}

func (p kubePods) GetLogs(pod string, options *corev1.PodLogOptions) *rest.Request {
	return p.logs.GetLogs(pod, options)
}

// roundTrip answers HTTP requests.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newKube returns a client of the process, which is served but for what goes over the wire.
func newKube(p *Process) *Kube {
	wire, err := coreclient.NewForConfigAndClient(&rest.Config{Host: "https://server", QPS: -1}, &http.Client{Transport: roundTrip(p.answer)})
	must(err)
	return &Kube{kubefake.NewClientset(), wire}
}

// answer answers GET /api/v1/namespaces/NAMESPACE/RESOURCE/NAME, with or without /log.
func (p *Process) answer(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/log") {
		return p.answerLog(r)
	}
	return p.answerLine(r)
}

// answerLine answers for a ConfigMap or a Secret with a line of a table that has no object, and refuses to answer with the object.
func (p *Process) answerLine(r *http.Request) (*http.Response, error) {
	path := strings.Split(r.URL.Path, "/")
	namespace, resource, name := path[4], path[5], path[6]
	if !strings.Contains(r.Header.Get("Accept"), "as=Table") || r.URL.Query().Get("includeObject") != "None" {
		return refusal(apierrors.NewBadRequest("this is served without content only"))
	}
	err := p.intercept(Request{Verb: "get", Resource: resource, Namespace: namespace, Name: name, At: time.Since(p.world.Began)}, func() error {
		p.world.mu.Lock()
		defer p.world.mu.Unlock()
		_, err := p.world.find(corev1.SchemeGroupVersion.WithResource(resource), namespace, name)
		return err
	})
	if err != nil {
		return refusal(err)
	}
	table := fmt.Sprintf(`{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[{"cells":[%q],"object":null}]}`, name)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(table))}, nil
}

// refusal is the answer of an API server that says err, or err if that is no API server's.
func refusal(err error) (*http.Response, error) {
	var refused apierrors.APIStatus
	if !errors.As(err, &refused) {
		return nil, err
	}
	status := refused.Status()
	status.Kind, status.APIVersion = "Status", "v1"
	body, err := json.Marshal(status)
	return &http.Response{StatusCode: int(status.Code), Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {"1"}},
		Body: io.NopCloser(bytes.NewReader(body))}, err
}

// answerLog answers GET /api/v1/namespaces/NAMESPACE/pods/POD/log as an API server does.
func (p *Process) answerLog(r *http.Request) (*http.Response, error) {
	path, query := strings.Split(r.URL.Path, "/"), r.URL.Query()
	namespace, of := path[4], logOf{path[6], query.Get("container"), query.Get("previous") == "true"}
	var log Log
	err := p.intercept(Request{Verb: "get", Resource: "pods/log", Namespace: namespace, Name: of.pod, At: time.Since(p.world.Began)}, func() (err error) {
		log, err = p.world.logFor(namespace, of)
		return err
	})
	switch {
	case err != nil:
		return refusal(err)
	case log.Hangs && log.Text == "":
		return nil, wait(r.Context())
	}
	body := io.Reader(strings.NewReader(lastLines(log.Text, query.Get("tailLines"))))
	if log.Hangs {
		body = io.MultiReader(body, hang{r.Context()})
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(body)}, nil
}

// lastLines returns so many lines of the end, all if no number is given.
func lastLines(text, lines string) string {
	count, err := strconv.Atoi(lines)
	if err != nil {
		return text
	}
	all := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-count):], "")
}

// hang is of which nothing comes.
type hang struct{ ctx context.Context }

func (h hang) Read([]byte) (int, error) { return 0, wait(h.ctx) }

func wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
