package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// inventory prints what there is: nodes and namespaces of the cluster, Services and Deployments of the namespace.
func inventory(ctx context.Context, out io.Writer, client kubernetes.Interface, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	services, err := client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	deployments, err := client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tVERSION\tCPU")
	for _, node := range nodes.Items {
		fmt.Fprintf(table, "%s\t%s\t%s\n", node.Name, node.Status.NodeInfo.KubeletVersion, node.Status.Capacity.Cpu())
	}
	fmt.Fprintln(table, "\nNAMESPACE\tPHASE")
	for _, n := range namespaces.Items {
		fmt.Fprintf(table, "%s\t%s\n", n.Name, n.Status.Phase)
	}
	fmt.Fprintln(table, "\nSERVICE\tTYPE\tIP\tPORTS")
	for _, s := range services.Items {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Name, s.Spec.Type, s.Spec.ClusterIP, ports(&s))
	}
	fmt.Fprintln(table, "\nDEPLOYMENT\tWANTED\tREADY")
	for _, d := range deployments.Items {
		fmt.Fprintf(table, "%s\t%d\t%d\n", d.Name, *d.Spec.Replicas, d.Status.ReadyReplicas)
	}
	return table.Flush()
}

func ports(service *corev1.Service) string {
	var all []string
	for _, p := range service.Spec.Ports {
		all = append(all, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return strings.Join(all, ",")
}
