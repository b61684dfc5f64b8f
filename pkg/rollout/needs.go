package rollout

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a rollback could help with. A trouble that the last good template would meet just the same is no failure of the release: this
// file compares what those who decide over a pod's start read of two templates.

// reader says who reads a field before a pod can start. The kubelet and the admission plugins read the rest, and answer for it
// by name.
type reader uint8

const (
	// byScheduler: a filter of the scheduler, its queue, or its preemption. Scores are left out: they forbid no node.
	byScheduler reader = 1 << iota
	// byQuota: the usage and the scopes of a ResourceQuota for pods.
	byQuota
	// byStorage: who attaches and mounts volumes that lie outside the pod.
	byStorage

	byNobody reader = 0
)

// readers says for each field of these types who reads it. A field that is not here is compared for everybody, and a test fails
// until it is sorted. From v1.37.2: pkg/scheduler/framework/plugins, component-helpers/nodedeclaredfeatures,
// pkg/quota/v1/evaluator/core/pods.go.
var readers = map[reflect.Type]map[string]reader{
	reflect.TypeFor[corev1.PodSpec](): {
		"Volumes":                       byScheduler | byStorage,
		"InitContainers":                byScheduler | byQuota,
		"Containers":                    byScheduler | byQuota,
		"EphemeralContainers":           byNobody, // no template can have them
		"RestartPolicy":                 byNobody,
		"TerminationGracePeriodSeconds": byNobody,
		"ActiveDeadlineSeconds":         byQuota, // scopes Terminating and NotTerminating
		"DNSPolicy":                     byNobody,
		"NodeSelector":                  byScheduler,
		"ServiceAccountName":            byNobody,
		"DeprecatedServiceAccount":      byNobody,
		"AutomountServiceAccountToken":  byNobody,
		"NodeName":                      byScheduler,
		"HostNetwork":                   byScheduler, // makes container ports host ports; with HostUsers a feature of nodes
		"HostPID":                       byNobody,
		"HostIPC":                       byNobody,
		"ShareProcessNamespace":         byNobody,
		"SecurityContext":               byStorage,
		"ImagePullSecrets":              byNobody,
		"Hostname":                      byNobody,
		"Subdomain":                     byNobody,
		"Affinity":                      byScheduler | byQuota, // scope CrossNamespacePodAffinity
		"SchedulerName":                 byScheduler,
		"Tolerations":                   byScheduler,
		"HostAliases":                   byNobody,
		"PriorityClassName":             byScheduler | byQuota, // scope PriorityClass
		"Priority":                      byScheduler | byQuota,
		"DNSConfig":                     byNobody,
		"ReadinessGates":                byNobody,
		"RuntimeClassName":              byScheduler | byQuota, // its overhead, node selector and tolerations
		"EnableServiceLinks":            byNobody,
		"PreemptionPolicy":              byScheduler,
		"Overhead":                      byScheduler | byQuota,
		"TopologySpreadConstraints":     byScheduler,
		"SetHostnameAsFQDN":             byNobody,
		"OS":                            byScheduler,
		"HostUsers":                     byScheduler,
		"SchedulingGates":               byScheduler,
		"ResourceClaims":                byScheduler | byQuota,
		"Resources":                     byScheduler | byQuota,
		"HostnameOverride":              byNobody,
		"SchedulingGroup":               byScheduler,
		"EvictionResponders":            byNobody,
	},
	reflect.TypeFor[corev1.Container](): {
		"Name":                     byNobody,
		"Image":                    byNobody, // a score prefers nodes that have it
		"Command":                  byNobody,
		"Args":                     byNobody,
		"WorkingDir":               byNobody,
		"Ports":                    byScheduler,
		"EnvFrom":                  byNobody,
		"Env":                      byNobody,
		"Resources":                byScheduler | byQuota,
		"ResizePolicy":             byNobody,
		"RestartPolicy":            byScheduler | byQuota, // the requests of an init sidecar are added, those of other init containers are not
		"RestartPolicyRules":       byScheduler,           // RestartAllContainers is a feature of nodes
		"VolumeMounts":             byScheduler,           // bind mount options are a feature of nodes
		"VolumeDevices":            byNobody,
		"LivenessProbe":            byNobody,
		"ReadinessProbe":           byNobody,
		"StartupProbe":             byNobody,
		"Lifecycle":                byNobody,
		"TerminationMessagePath":   byNobody,
		"TerminationMessagePolicy": byNobody,
		"ImagePullPolicy":          byNobody,
		"SecurityContext":          byNobody,
		"Stdin":                    byNobody,
		"StdinOnce":                byNobody,
		"TTY":                      byNobody,
	},
	reflect.TypeFor[corev1.ResourceRequirements](): {
		"Limits":   byQuota,
		"Requests": byScheduler | byQuota,
		"Claims":   byScheduler | byQuota,
	},
	reflect.TypeFor[corev1.ContainerPort](): {
		"Name":          byNobody,
		"HostPort":      byScheduler,
		"ContainerPort": byNobody,
		"Protocol":      byScheduler,
		"HostIP":        byScheduler,
	},
	reflect.TypeFor[corev1.VolumeMount](): {
		"Name":              byNobody,
		"ReadOnly":          byNobody,
		"RecursiveReadOnly": byNobody,
		"MountPath":         byNobody,
		"SubPath":           byNobody,
		"MountPropagation":  byNobody,
		"SubPathExpr":       byNobody,
		"BindMountOptions":  byScheduler,
	},
	reflect.TypeFor[corev1.PodSecurityContext](): {
		"SELinuxOptions":           byStorage,
		"WindowsOptions":           byNobody,
		"RunAsUser":                byNobody,
		"RunAsGroup":               byNobody,
		"RunAsNonRoot":             byNobody,
		"SupplementalGroups":       byNobody,
		"SupplementalGroupsPolicy": byNobody,
		"FSGroup":                  byStorage,
		"Sysctls":                  byNobody,
		"FSGroupChangePolicy":      byStorage,
		"SeccompProfile":           byNobody,
		"AppArmorProfile":          byNobody,
		"SELinuxChangePolicy":      byStorage,
	},
	reflect.TypeFor[corev1.VolumeSource](): {
		"PersistentVolumeClaim": byScheduler | byStorage,
		"Ephemeral":             byScheduler | byStorage,
		"CSI":                   byScheduler | byStorage,
		"GCEPersistentDisk":     byScheduler | byStorage, // those that CSI drivers have taken over are counted as theirs
		"AWSElasticBlockStore":  byScheduler | byStorage,
		"AzureDisk":             byScheduler | byStorage,
		"AzureFile":             byScheduler | byStorage,
		"Cinder":                byScheduler | byStorage,
		"VsphereVolume":         byScheduler | byStorage,
		"PortworxVolume":        byScheduler | byStorage,
		"ISCSI":                 byScheduler | byStorage,
		"RBD":                   byScheduler | byStorage,
		"NFS":                   byStorage,
		"Glusterfs":             byStorage,
		"FlexVolume":            byStorage,
		"CephFS":                byStorage,
		"Flocker":               byStorage,
		"FC":                    byStorage,
		"Quobyte":               byStorage,
		"PhotonPersistentDisk":  byStorage,
		"ScaleIO":               byStorage,
		"StorageOS":             byStorage,
		"HostPath":              byNobody,
		"EmptyDir":              byNobody,
		"GitRepo":               byNobody,
		"Secret":                byNobody,
		"ConfigMap":             byNobody,
		"DownwardAPI":           byNobody,
		"Projected":             byNobody,
		"Image":                 byNobody,
	},
}

// sameRoom reports whether the scheduler reads the same of both templates, and otherwise what differs first. Of the labels it reads
// those that a selector of a template's own affinity or spread constraints names: labels such as a version change with every
// release. Another scheduler may read any label and annotation.
func sameRoom(a, b *corev1.PodTemplateSpec) (bool, string) {
	if field := firstDifference(byScheduler, &a.Spec, &b.Spec); field != "" {
		return false, field
	}
	if a.Spec.SchedulerName != "" && a.Spec.SchedulerName != corev1.DefaultSchedulerName {
		if !equality.Semantic.DeepEqual(a.Annotations, b.Annotations) {
			return false, "metadata.annotations"
		}
		if !equality.Semantic.DeepEqual(a.Labels, b.Labels) {
			return false, "metadata.labels"
		}
	}
	for _, key := range selectedLabels(&a.Spec) {
		if a.Labels[key] != b.Labels[key] {
			return false, "metadata.labels." + key
		}
	}
	return true, ""
}

// sameQuota reports whether a ResourceQuota reads the same of both templates, and otherwise what differs first.
func sameQuota(a, b *corev1.PodTemplateSpec) (bool, string) {
	field := firstDifference(byQuota, &a.Spec, &b.Spec)
	return field == "", field
}

// sameVolumes reports whether both templates have the same volumes that lie outside the pod, to be mounted in the same way.
func sameVolumes(a, b *corev1.PodTemplateSpec) bool {
	return firstDifference(byStorage, &a.Spec, &b.Spec) == ""
}

// firstDifference returns the first field in which one reader reads different things, empty if there is none.
func firstDifference(who reader, a, b *corev1.PodSpec) string {
	return differs(reflect.ValueOf(*readBy(who, a)), reflect.ValueOf(*readBy(who, b)), "spec")
}

// differs returns the path to the first field in which a and b differ. It goes into structs that readers knows, and into lists of
// them.
func differs(a, b reflect.Value, path string) string {
	switch {
	case equality.Semantic.DeepEqual(a.Interface(), b.Interface()):
		return ""
	case a.Kind() == reflect.Struct && readers[a.Type()] != nil:
		for i := range a.NumField() {
			if found := differs(a.Field(i), b.Field(i), path+"."+jsonName(a.Type().Field(i))); found != "" {
				return found
			}
		}
	case a.Kind() == reflect.Slice && readers[a.Type().Elem()] != nil && a.Len() == b.Len():
		for i := range a.Len() {
			if found := differs(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", path, i)); found != "" {
				return found
			}
		}
	}
	return path
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return cmp.Or(name, field.Name)
}

// readBy returns a copy of spec with what one reader reads, in one form: defaults are filled in as the API server does for
// pods (pkg/apis/core/v1/defaults.go), and list entries of which nothing is read are left out.
func readBy(who reader, spec *corev1.PodSpec) *corev1.PodSpec {
	spec = spec.DeepCopy()
	spec.SchedulerName = cmp.Or(spec.SchedulerName, corev1.DefaultSchedulerName)
	if spec.Resources == nil {
		spec.Resources = &corev1.ResourceRequirements{}
	}
	fillRequests(spec.Resources)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	for c := range containersOf(spec) {
		fillRequests(&c.Resources)
		fillPorts(c, spec.HostNetwork)
		c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return len(m.BindMountOptions) == 0 })
	}
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return !readsVolume(who, &v.VolumeSource) })
	slices.SortFunc(spec.Volumes, func(a, b corev1.Volume) int { return strings.Compare(a.Name, b.Name) })
	blank(who, reflect.ValueOf(spec).Elem())
	return spec
}

// fillRequests gives a resource that has only a limit a request of the same size.
func fillRequests(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; ok {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = limit
	}
}

// fillPorts leaves the ports that the container takes on its node. On the node's own network these are all.
func fillPorts(c *corev1.Container, hostNetwork bool) {
	for i := range c.Ports {
		port := &c.Ports[i]
		port.Protocol = cmp.Or(port.Protocol, corev1.ProtocolTCP)
		if hostNetwork {
			port.HostPort = cmp.Or(port.HostPort, port.ContainerPort)
		}
	}
	c.Ports = slices.DeleteFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.HostPort == 0 })
}

// readsVolume reports whether this reader looks at a volume of this kind.
func readsVolume(who reader, source *corev1.VolumeSource) bool {
	value := reflect.ValueOf(*source)
	for i := range value.NumField() {
		if !value.Field(i).IsZero() && reads(who, value.Type(), value.Type().Field(i).Name) {
			return true
		}
	}
	return false
}

// reads reports whether this reader reads the field. One that nobody has sorted is read by all.
func reads(who reader, in reflect.Type, field string) bool {
	by, sorted := readers[in][field]
	return !sorted || by&who != 0
}

// blank empties the fields that the reader does not read, in value and in the structs below it that readers knows.
func blank(who reader, value reflect.Value) {
	switch value.Kind() {
	case reflect.Pointer:
		if !value.IsNil() {
			blank(who, value.Elem())
		}
	case reflect.Slice:
		for i := range value.Len() {
			blank(who, value.Index(i))
		}
	case reflect.Struct:
		for i := range value.NumField() {
			switch {
			case readers[value.Type()] == nil:
			case !reads(who, value.Type(), value.Type().Field(i).Name):
				value.Field(i).SetZero()
			default:
				blank(who, value.Field(i))
			}
		}
	}
}

// selectedLabels returns the keys of the labels that the pod's own affinity and spread constraints select by.
func selectedLabels(spec *corev1.PodSpec) []string {
	var keys []string
	note := func(selector *metav1.LabelSelector, more ...string) {
		keys = append(keys, more...)
		if selector == nil {
			return
		}
		for key := range selector.MatchLabels {
			keys = append(keys, key)
		}
		for _, expression := range selector.MatchExpressions {
			keys = append(keys, expression.Key)
		}
	}
	for _, term := range affinityTerms(spec.Affinity) {
		note(term.LabelSelector, append(slices.Clone(term.MatchLabelKeys), term.MismatchLabelKeys...)...)
	}
	for _, constraint := range spec.TopologySpreadConstraints {
		note(constraint.LabelSelector, constraint.MatchLabelKeys...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// affinityTerms returns the terms about other pods that forbid nodes. Preferred ones are scores.
func affinityTerms(affinity *corev1.Affinity) []corev1.PodAffinityTerm {
	var terms []corev1.PodAffinityTerm
	if affinity != nil && affinity.PodAffinity != nil {
		terms = append(terms, affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
	}
	if affinity != nil && affinity.PodAntiAffinity != nil {
		terms = append(terms, affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
	}
	return terms
}

// registryOf returns the registry host of an image, by the rules of
// https://github.com/distribution/reference/blob/v0.6.0/normalize.go, which containerd and CRI-O follow: without a
// dot, a colon or a capital letter the first part is no host, unless it is localhost.
func registryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || (!strings.ContainsAny(host, ".:") && host != "localhost" && strings.ToLower(host) == host) || host == "index.docker.io" {
		return "docker.io"
	}
	return host
}

// sameRegistry reports whether the registries that a container of a pulls from, image volumes included, are all among those that b
// pulls from. With container empty, whether any of a's is. A container that a does not state pulls from nowhere that is known.
func sameRegistry(a, b *corev1.PodTemplateSpec, container string) bool {
	known := registriesOf(&b.Spec, "")
	shared := func(host string) bool { return slices.Contains(known, host) }
	wanted := registriesOf(&a.Spec, container)
	if container == "" {
		return slices.ContainsFunc(wanted, shared)
	}
	return len(wanted) > 0 && !slices.ContainsFunc(wanted, func(host string) bool { return !shared(host) })
}

// registriesOf returns the registries of one container and of the image volumes that it mounts, of all of them if container is
// empty.
func registriesOf(spec *corev1.PodSpec, container string) []string {
	var hosts []string
	mounts := map[string]bool{}
	for c := range containersOf(spec) {
		if container != "" && c.Name != container {
			continue
		}
		hosts = append(hosts, registryOf(c.Image))
		for _, mount := range c.VolumeMounts {
			mounts[mount.Name] = true
		}
	}
	for _, volume := range spec.Volumes {
		if volume.Image != nil && (container == "" || mounts[volume.Name]) {
			hosts = append(hosts, registryOf(volume.Image.Reference))
		}
	}
	return hosts
}
