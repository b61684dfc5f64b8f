#!/usr/bin/env bash
# "kubectl rollout undo" takes back more than the template: all annotations of the Deployment become those that the older ReplicaSet
# has. What was set on the Deployment since is gone, whoever set it.
#
# Versions: k8s.io/kubectl v0.37.2 and k8s.io/client-go v0.37.2 (its fake clientset plays the API server).
# Input: a Deployment with two ReplicaSets. Its annotation example.com/settings was set after the first release, example.com/team has
#   changed since, and the first ReplicaSet has example.com/made-by, which the Deployment never had. Undone to revision 1.
# Expected: a patch of spec.template.
# Seen: a JSON patch that replaces spec.template and metadata.annotations: example.com/settings is gone, example.com/team is as it was
#   then, example.com/made-by is on the Deployment now. Only kubectl's last-applied and the Deployment controller's own annotations stay.
#
# A controller that keeps settings or state in annotations of Deployments, or of ReplicaSets, meets both again after an undo: on the
# other object, or gone. Labels of either are left alone.
set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"

cat >main.go <<'END_OF_MAIN'
package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"
)

const number = "deployment.kubernetes.io/revision"

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
	}
}

func main() {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	web := &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "d", Annotations: map[string]string{
			number: "2", "example.com/team": "blue", "example.com/settings": "on"}},
		Spec: appsv1.DeploymentSpec{Replicas: new(int32(1)), Selector: selector, Template: template("app:2")},
	}
	set := func(name, revision, image string, annotations map[string]string) *appsv1.ReplicaSet {
		annotations[number] = revision
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(name), Labels: map[string]string{"app": "web", "verdict": "good"},
				Annotations: annotations, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(web, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(1)), Selector: selector, Template: template(image)},
		}
	}
	client := fake.NewClientset(web,
		set("web-1", "1", "app:1", map[string]string{"example.com/team": "red", "example.com/made-by": "somebody"}),
		set("web-2", "2", "app:2", map[string]string{"example.com/team": "blue", "example.com/settings": "on"}))
	rollbacker, err := polymorphichelpers.RollbackerFor(appsv1.SchemeGroupVersion.WithKind("Deployment").GroupKind(), client)
	if err != nil {
		panic(err)
	}
	if _, err := rollbacker.Rollback(web, nil, 1, util.DryRunNone); err != nil {
		panic(err)
	}
	after, err := client.AppsV1().Deployments("shop").Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		panic(err)
	}
	fmt.Println("image:", after.Spec.Template.Spec.Containers[0].Image)
	for _, key := range slices.Sorted(maps.Keys(after.Annotations)) {
		fmt.Printf("%s: %s\n", key, after.Annotations[key])
	}
	fmt.Println("labels:", after.Labels)
}
END_OF_MAIN
cat >go.mod <<'END_OF_MOD'
module example.com/undo

go 1.26

require (
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	k8s.io/kubectl v0.37.2
)
END_OF_MOD
go mod tidy >tidy.log 2>&1 || { cat tidy.log; exit 1; }
go run . >seen

cat >expected <<'END_OF_EXPECTED'
image: app:1
deployment.kubernetes.io/revision: 2
example.com/made-by: somebody
example.com/team: red
labels: map[]
END_OF_EXPECTED
diff expected seen && echo "as seen before: undo took the annotations back, too"
