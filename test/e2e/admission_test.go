package e2e

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policy is an admission policy for the Deployments in the namespace of a test. It has the name of the namespace.
type policy struct {
	*namespace
	remove func(context.Context) error // removes it, and what binds it
}

// require has every Deployment refused for which the CEL expression is false, and waits until that is in force:
// violating is such a one.
func (n *namespace) require(expression, message string, violating *appsv1.Deployment) policy {
	n.Helper()
	p := n.validate(n.deployments(), expression, message)
	n.eventually("the policy is in force", func(context.Context) (bool, error) {
		_, err := n.try(violating)
		return err != nil && strings.Contains(err.Error(), message), nil
	})
	return p
}

// validate has the objects that match refused for which the CEL expression is false.
func (n *namespace) validate(matching *admissionv1.MatchResources, expression, message string) policy {
	n.Helper()
	client := cluster.kube.AdmissionregistrationV1()
	_, err := client.ValidatingAdmissionPolicies().Create(n.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: matching,
			Validations:      []admissionv1.Validation{{Expression: expression, Message: message}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	p := n.policy(func(ctx context.Context) error {
		return ignoreNotFound(client.ValidatingAdmissionPolicyBindings().Delete(ctx, n.name, metav1.DeleteOptions{}),
			client.ValidatingAdmissionPolicies().Delete(ctx, n.name, metav1.DeleteOptions{}))
	})
	_, err = client.ValidatingAdmissionPolicyBindings().Create(n.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: n.name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return p
}

// tryReplicaSet asks the API server what it would make of a ReplicaSet.
func (n *namespace) tryReplicaSet() (*appsv1.ReplicaSet, error) {
	pods := template(good, "1")
	return cluster.kube.AppsV1().ReplicaSets(n.name).Create(n.Context(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "tried"},
		Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// mutate has every Deployment changed by the CEL expression, which is a patch, and waits until that is in force: then
// changed is true of any.
func (n *namespace) mutate(expression string, changed func(*appsv1.Deployment) bool) policy {
	n.Helper()
	p := n.mutateWrites(n.deployments(), expression)
	n.eventually("the policy is in force", func(context.Context) (bool, error) {
		d, err := n.try(anyDeployment("1"))
		return err == nil && changed(d), nil
	})
	return p
}

// mutatePods has every new pod changed by the CEL expression, and waits until that is in force: then changed is true of any.
func (n *namespace) mutatePods(expression string, changed func(*corev1.Pod) bool) policy {
	n.Helper()
	p := n.mutateWrites(n.writesOf("", "pods", admissionv1.Create), expression)
	n.eventually("the policy is in force", func(context.Context) (bool, error) {
		pod, err := n.tryPod()
		return err == nil && changed(pod), nil
	})
	return p
}

// mutateWrites has the objects that match changed by the CEL expression.
func (n *namespace) mutateWrites(matching *admissionv1.MatchResources, expression string) policy {
	n.Helper()
	client := cluster.kube.AdmissionregistrationV1()
	_, err := client.MutatingAdmissionPolicies().Create(n.Context(), &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints:   matching,
			ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch,
				JSONPatch: &admissionv1.JSONPatch{Expression: expression}}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) {
		n.Skip("this API server has no MutatingAdmissionPolicy: Kubernetes has it since 1.36")
	}
	if err != nil {
		n.Fatal(err)
	}
	p := n.policy(func(ctx context.Context) error {
		return ignoreNotFound(client.MutatingAdmissionPolicyBindings().Delete(ctx, n.name, metav1.DeleteOptions{}),
			client.MutatingAdmissionPolicies().Delete(ctx, n.name, metav1.DeleteOptions{}))
	})
	_, err = client.MutatingAdmissionPolicyBindings().Create(n.Context(), &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: n.name},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	return p
}

// breakWebhook has a webhook for new pods that nobody answers, and waits until it is in force.
func (n *namespace) breakWebhook(webhook string) policy {
	n.Helper()
	client := cluster.kube.AdmissionregistrationV1().MutatingWebhookConfigurations()
	rules := n.writesOf("", "pods", admissionv1.Create)
	_, err := client.Create(n.Context(), &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Webhooks: []admissionv1.MutatingWebhook{{
			Name:                    webhook,
			ClientConfig:            admissionv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/")}, // where nobody listens
			NamespaceSelector:       rules.NamespaceSelector,
			Rules:                   []admissionv1.RuleWithOperations{rules.ResourceRules[0].RuleWithOperations},
			FailurePolicy:           new(admissionv1.Fail),
			SideEffects:             new(admissionv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(1)),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		n.Fatal(err)
	}
	p := n.policy(func(ctx context.Context) error {
		return ignoreNotFound(client.Delete(ctx, n.name, metav1.DeleteOptions{}))
	})
	n.eventually("the webhook is in force", func(context.Context) (bool, error) {
		_, err := n.tryPod()
		return err != nil && strings.Contains(err.Error(), webhook), nil
	})
	return p
}

// tryPod asks the API server what it would make of a pod.
func (n *namespace) tryPod() (*corev1.Pod, error) {
	pods := template(good, "1")
	return cluster.kube.CoreV1().Pods(n.name).Create(n.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "tried"}, Spec: pods.Spec},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// deployments matches the writes of Deployments in the namespace.
func (n *namespace) deployments() *admissionv1.MatchResources {
	return n.writesOf("apps", "deployments", admissionv1.Create, admissionv1.Update)
}

// writesOf matches the writes of these objects in the namespace.
func (n *namespace) writesOf(group, resource string, operations ...admissionv1.OperationType) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": n.name}},
		ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: operations,
			Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{resource}},
		}}},
	}
}

// policy returns a policy that is removed with the test, or when the run is interrupted.
func (n *namespace) policy(remove func(context.Context) error) policy {
	forget := leave(func() error { return remove(context.Background()) })
	n.Cleanup(func() {
		forget()
		if err := remove(context.Background()); err != nil {
			n.Error(err)
		}
	})
	return policy{n, remove}
}

// lift removes the policy, and waits until the Deployment that it denied is let through.
func (p policy) lift(denied *appsv1.Deployment) {
	p.Helper()
	if err := p.remove(p.Context()); err != nil {
		p.Fatal(err)
	}
	p.eventually("the policy is not in force any more", func(context.Context) (bool, error) {
		_, err := p.try(denied)
		return err == nil, nil
	})
}

// try asks the API server what it would make of a Deployment.
func (n *namespace) try(d *appsv1.Deployment) (*appsv1.Deployment, error) {
	return cluster.kube.AppsV1().Deployments(n.name).Create(n.Context(), d, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// anyDeployment returns a Deployment for trying policies on.
func anyDeployment(version string) *appsv1.Deployment {
	pods := template(good, version)
	pods.Annotations = map[string]string{"build": "stated"}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "tried"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: pods.Labels}, Template: pods}}
}

// not is the CEL expression for any release but this one.
func not(version string) string {
	return fmt.Sprintf("!object.spec.template.spec.containers[0].env.exists(e, e.name == 'VERSION' && e.value == '%s')", version)
}

func ignoreNotFound(errs ...error) error {
	for _, err := range errs {
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
