package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// object is a piece of JSON.
type object map[string]any

// writeConfig writes the configuration that kwokctl makes the cluster from.
func (c *cluster) writeConfig(p ports) (path string, err error) {
	binary := func(tool string) string { return filepath.Join(c.bin(), tool) }
	// The two exit when they lose their lease, and nobody starts them again.
	controller := object{"leader-elect": "false", "kube-api-qps": strconv.Itoa(c.controllerQPS), "kube-api-burst": strconv.Itoa(3 * c.controllerQPS / 2)}
	apiServer := object{
		"audit-policy-file":   filepath.Join(c.module, "audit-policy.yaml"),
		"audit-log-path":      c.auditLog(),
		"audit-log-mode":      "blocking", // a request is answered when its line is written: counts are exact
		"audit-log-maxsize":   "2000",     // MB: tests see one file
		"audit-log-maxbackup": "1",
		// As OpenShift has it: who makes an owner wait for what it owns needs a right to that.
		"enable-admission-plugins": "OwnerReferencesPermissionEnforcement",
	}
	var disabled []string
	monitor := object{}
	if c.realNode != "" {
		disabled = []string{"kwok-controller"}
		// A kubelet can fall silent. kwok, which has thousands, would look after ten minutes, and wait for an hour.
		monitor = object{"node-monitor-period": "2s", "node-monitor-grace-period": "20s"}
		// Pods reach it through a Service, and that has no loopback addresses behind it.
		apiServer["advertise-address"] = c.realNode
		apiServer["bind-address"] = "0.0.0.0"
		apiServer["service-cluster-ip-range"] = serviceRange
		// It asks kubelets for logs and streams as the administrator, and no name leads to them.
		apiServer["kubelet-preferred-address-types"] = "InternalIP"
		apiServer["kubelet-client-certificate"] = filepath.Join(c.workdir(), "pki", "admin.crt")
		apiServer["kubelet-client-key"] = filepath.Join(c.workdir(), "pki", "admin.key")
	}
	config := object{
		"apiVersion": "config.kwok.x-k8s.io/v1alpha1",
		"kind":       "KwokctlConfiguration",
		"options": object{
			"runtime":     "binary",
			"bindAddress": loopback,
			"disable":     disabled,

			"kubeApiserverCertSANs": []string{apiServerService},

			"etcdPort":                  p.Etcd,
			"etcdPeerPort":              p.EtcdPeer,
			"kubeApiserverPort":         p.APIServer,
			"kubeControllerManagerPort": p.ControllerManager,
			"kubeSchedulerPort":         p.Scheduler,
			"kwokControllerPort":        p.Kwok,

			// What is not given as a file is downloaded.
			"etcdBinary":                  binary("etcd"),
			"kubeApiserverBinary":         binary("kube-apiserver"),
			"kubeControllerManagerBinary": binary("kube-controller-manager"),
			"kubeSchedulerBinary":         binary("kube-scheduler"),
			"kwokControllerBinary":        binary("kwok"),
			"kubectlBinary":               binary("kubectl"),
		},
		"componentsPatches": []object{
			{"name": "etcd", "extraArgs": flags(object{
				// Survives a kill; a power cut may cost it, and it is made new.
				"unsafe-no-fsync": "true",
			})},
			{"name": "kube-apiserver", "extraArgs": flags(apiServer)},
			{"name": "kube-controller-manager", "extraArgs": flags(controller, monitor, object{
				"use-service-account-credentials": "true", // each controller as itself, with its own rights, as kubeadm has it
			})},
			{"name": "kube-scheduler", "extraArgs": flags(controller)},
			// The nodes that nodeList makes, and no others: a test may play the kubelet of its own.
			{"name": "kwok-controller", "extraArgs": flags(object{
				"manage-all-nodes": "false", "manage-nodes-with-annotation-selector": fakeNode + "=fake"})},
		},
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return "", err
	}
	path = filepath.Join(c.dir, "kwokctl.json")
	return path, os.WriteFile(path, data, 0o644)
}

// flags lists command line flags as kwokctl wants them.
func flags(sets ...object) []object {
	var list []object
	for _, set := range sets {
		for key, value := range set {
			list = append(list, object{"key": key, "value": value})
		}
	}
	return list
}

// fakeNode is the annotation of the nodes that kwok manages.
const fakeNode = "kwok.x-k8s.io/node"

// nodeList makes n fake nodes, too large to ever be full.
func nodeList(n int) []byte {
	var items []object
	for i := range n {
		node := fmt.Sprintf("node-%d", i)
		room := object{"cpu": "1000", "memory": "4Ti", "pods": "10000", "ephemeral-storage": "10Ti"}
		items = append(items, object{
			"apiVersion": "v1",
			"kind":       "Node",
			"metadata": object{
				"name":        node,
				"annotations": object{fakeNode: "fake"},
				"labels": object{
					"kubernetes.io/hostname": node,
					"kubernetes.io/os":       "linux",
					"kubernetes.io/arch":     runtime.GOARCH,
				},
			},
			"spec": object{"podCIDR": fmt.Sprintf("10.%d.0.0/16", 64+i), "podCIDRs": []string{fmt.Sprintf("10.%d.0.0/16", 64+i)}},
			"status": object{
				"addresses":   []object{{"type": "InternalIP", "address": fmt.Sprintf("192.0.2.%d", 10+i)}, {"type": "Hostname", "address": node}},
				"capacity":    room,
				"allocatable": room,
			},
		})
	}
	data, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		panic(err) // strings and numbers
	}
	return data
}
