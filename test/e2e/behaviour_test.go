package e2e

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// behaviour is what a container does.
type behaviour string

const (
	good      behaviour = "good"      // runs, and is ready at once
	slow      behaviour = "slow"      // runs, and is ready after 8 s
	crash     behaviour = "crash"     // exits with 1 after a second
	flap      behaviour = "flap"      // is ready for 3 s, then exits with 2
	missing   behaviour = "missing"   // has an image that does not exist
	badConfig behaviour = "badconfig" // refers to a ConfigMap that does not exist
	unready   behaviour = "unready"   // runs, and is never ready
	sicken    behaviour = "sicken"    // is ready for 6 s, then never again
)

// program makes a container behave.
type program struct {
	image     string
	script    string // run by sh
	ready     string // readiness probe, run by sh
	configMap string // environment from it
}

const busybox = "registry.k8s.io/e2e-test-images/busybox:1.36.1-1"

// programs has each behaviour on the fake nodes of the embedded cluster, where the tag of the image says all, and on
// real nodes.
var programs = map[string]map[behaviour]program{
	"fake": {
		good:      {image: "localhost/app:good"},
		slow:      {image: "localhost/app:slow"},
		crash:     {image: "localhost/app:crash"},
		flap:      {image: "localhost/app:flap"},
		missing:   {image: "localhost/app:missing"},
		badConfig: {image: "localhost/app:badconfig"},
		unready:   {image: "localhost/app:unready"},
		sicken:    {image: "localhost/app:sicken"},
	},
	"real": {
		good:      {image: busybox, script: "sleep 100000"},
		slow:      {image: busybox, script: "sleep 8; touch /tmp/ok; sleep 100000", ready: "test -f /tmp/ok"},
		crash:     {image: busybox, script: "sleep 1; exit 1", ready: "false"},
		flap:      {image: busybox, script: "sleep 3; exit 2"},
		missing:   {image: "registry.k8s.io/e2e-test-images/busybox:does-not-exist"},
		badConfig: {image: busybox, script: "sleep 100000", configMap: "app-config"},
		unready:   {image: busybox, script: "sleep 100000", ready: "false"},
		sicken:    {image: busybox, script: "touch /tmp/ok; sleep 6; rm /tmp/ok; sleep 100000", ready: "test -f /tmp/ok"},
	},
}

// template returns a pod template of this behaviour. Another version is another template.
func template(b behaviour, version string) corev1.PodTemplateSpec {
	app := container("app", b)
	app.Env = []corev1.EnvVar{{Name: "VERSION", Value: version}}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "e2e"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{app},
		},
	}
}

func container(name string, b behaviour) corev1.Container {
	does, ok := programs[*podsFlag][b]
	if !ok {
		panic(fmt.Sprintf("-pods=%s has no %q", *podsFlag, b))
	}
	c := corev1.Container{Name: name, Image: does.image}
	if does.script != "" {
		c.Command = []string{"sh", "-c", does.script}
	}
	if does.ready != "" {
		c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			Exec: &corev1.ExecAction{Command: []string{"sh", "-c", does.ready}}}}
	}
	if does.configMap != "" {
		c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: does.configMap}}}}
	}
	return c
}
