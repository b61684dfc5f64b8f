package main

import (
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// url is where the streams are. The clientset has no method for it: its requests have one answer.
func (s *session) url(client kubernetes.Interface, pod *corev1.Pod, container *corev1.Container) *url.URL {
	request := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name)
	streams := s.streams(container)
	stdin, stderr := streams.Stdin != nil, streams.Stderr != nil
	if s.attach {
		return request.SubResource("attach").VersionedParams(&corev1.PodAttachOptions{
			Container: container.Name, Stdin: stdin, Stdout: true, Stderr: stderr, TTY: streams.Tty,
		}, scheme.ParameterCodec).URL()
	}
	return request.SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: container.Name, Command: s.command, Stdin: stdin, Stdout: true, Stderr: stderr,
	}, scheme.ParameterCodec).URL()
}

// dial returns what opens the streams: with WebSocket, or with SPDY if the answer is not a WebSocket. That may also be an
// answer such as "forbidden"; then SPDY gets the same one, and it becomes the error. After the streams are open nothing is
// tried a second time.
func dial(config *rest.Config, url *url.URL) (remotecommand.Executor, error) {
	websocket, err := remotecommand.NewWebSocketExecutor(config, "GET", url.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", url)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}
