package rollout

import (
	"regexp"
	"strings"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

// What the words of the API server, the kubelet and the scheduler mean. Events and conditions carry no code: the text is all
// there is. It is read from its beginning, because whatever follows may quote anything: a webhook's denial can say
// "exceeded quota" or "Internal error occurred".

// refusalKind says what may be concluded when the API server refuses to create pods.
type refusalKind int

const (
	// refusedByCluster is no word about the pods: something that has to answer first does not, or may not.
	refusedByCluster refusalKind = iota
	// refusedByQuota ends by itself when there is room in the quota.
	refusedByQuota
	// refusedForGood is a verdict on what the pods state. The next try gets the same one.
	refusedForGood
)

// These are the forms of a refusal:
//
//   - the controllers' own words before it: pkg/controller/controller_utils.go and pkg/controller/deployment/sync.go of
//     https://github.com/kubernetes/kubernetes/tree/v1.37.2, and the correlator of client-go/tools/events
//   - webhooks: https://github.com/kubernetes/apiserver/blob/v0.37.2/pkg/admission/plugin/webhook/errors/statuserror.go
//   - 403 and 422: https://github.com/kubernetes/apimachinery/blob/v0.37.2/pkg/api/errors/errors.go
//   - policies: pkg/admission/plugin/policy/validating/dispatcher.go and policy/generic of
//     https://github.com/kubernetes/apiserver/tree/v0.37.2
var (
	controllerWords = regexp.MustCompile(`^(\(combined from similar events\): )?(Error creating: |Failed to create new replica set "[^"]*": )?`)
	webhookDenies   = regexp.MustCompile(`^admission webhook "[^"]*" denied the request`)
	forbids         = regexp.MustCompile(`^\S+ "[^"]*" is forbidden: `)
	isInvalid       = regexp.MustCompile(`^\S+ "[^"]*" is invalid: `)
	policyDenies    = regexp.MustCompile(`^(?:ValidatingAdmissionPolicy|policy) ['"][^'"]*['"] (?:with binding '[^']*' )?denied request: `)
)

// refusalOf returns what the API server's refusal of pods, or of their ReplicaSet, means: the text of an Event FailedCreate or
// ReplicaSetCreateError. cause is empty where none is certain. A text of no known form is the cluster's: nearly all of them are
// timeouts and errors of the server or its store.
func refusalOf(message string) (kind refusalKind, cause string) {
	message = message[len(controllerWords.FindString(message)):]
	if webhookDenies.MatchString(message) {
		return refusedForGood, v1alpha1.CauseWebhookDenied
	}
	if words := forbids.FindString(message); words != "" {
		return forbiddenBy(message[len(words):])
	}
	if policyDenies.MatchString(message) {
		return forbiddenBy(message)
	}
	if isInvalid.MatchString(message) {
		return refusedForGood, v1alpha1.CauseForbidden
	}
	return refusedPlainly(message)
}

// neverJudged are the beginnings of a 403 that says nothing about the pods. They are from v1.37.2: admission plugins whose caches are empty
// ("not yet ready"), NamespaceLifecycle, ResourceQuota, LimitRanger, OwnerReferencesPermissionEnforcement, and the authorizer's
// word about the controller itself.
var neverJudged = []string{
	"not yet ready to handle request",
	"unable to create new content in namespace ",
	"status unknown for quota: ",
	"unable to CREATE ", // "... at this time because there was an error enforcing limit ranges"
	"cannot set blockOwnerDeletion ",
	"cannot set an ownerRef ",
	`User "`,
	`Post "`, "an error on the server ", "Error contacting webhook: ", // ImagePolicyWebhook: its backend does not answer
}

// forbiddenBy returns what a 403 means, by the words after "is forbidden".
//
// Quota: https://github.com/kubernetes/apiserver/blob/v0.37.2/pkg/admission/plugin/resourcequota/controller.go. "failed quota: ...
// must specify" is not about what is used: the pods lack a field that the quota counts.
func forbiddenBy(words string) (kind refusalKind, cause string) {
	if strings.HasPrefix(words, "exceeded quota: ") || strings.HasPrefix(words, "insufficient quota to ") {
		return refusedByQuota, v1alpha1.CauseQuota
	}
	for _, beginning := range neverJudged {
		if strings.HasPrefix(words, beginning) {
			return refusedByCluster, ""
		}
	}
	if strings.HasPrefix(words, "error looking up service account ") && !strings.HasSuffix(words, " not found") {
		return refusedByCluster, ""
	}
	if policy := policyDenies.FindString(words); policy != "" && strings.HasPrefix(words[len(policy):], "failed to configure ") {
		return refusedByCluster, "" // The policy or its binding is broken, and whatever it meets is denied.
	}
	return refusedForGood, v1alpha1.CauseForbidden
}

// refusedPlainly returns what a refusal of no common form means. Those that are about the pods, from v1.37.2: the plugin
// PodTolerationRestriction, a quota that is stated for other scopes, objects that the server cannot decode, and objects that it or
// etcd finds too large.
func refusedPlainly(message string) (kind refusalKind, cause string) {
	switch {
	case strings.HasPrefix(message, "insufficient quota to match these scopes: "):
		return refusedByQuota, v1alpha1.CauseQuota
	case strings.HasPrefix(message, "pod tolerations (possibly merged with namespace default tolerations) conflict with its "),
		strings.Contains(message, " cannot be handled as a "):
		return refusedForGood, v1alpha1.CauseForbidden
	case strings.HasPrefix(message, "Request entity too large"), strings.HasPrefix(message, "etcdserver: request is too large"),
		strings.Contains(message, "trying to send message larger than max"):
		return refusedForGood, ""
	}
	return refusedByCluster, ""
}

// withStatus matches a status of HTTP where containerd and CRI-O tell one. A server may leave out the words after it, or write them in
// capitals.
func withStatus(codes string) string {
	return `: (?:` + codes + `)(?:\s|$)|(?i:status(?: ?code)?(?: from registry)?:? )(?:` + codes + `)\b`
}

// What a registry says, in the forms of containerd and CRI-O, when the image is not there, and when it does not give it out. Docker Hub
// says the latter of a repository that it does not have. Images may be called like it: their names have no spaces.
var (
	absentWords    = `(?i:not found)|manifest unknown|name unknown|does not exist|` + withStatus("404")
	forbiddenWords = `(?:^|[\s"])(?:unauthorized|denied): |(?i:401 unauthorized|403 forbidden)|access denied|is denied|` +
		`authentication required|authorization failed|` + withStatus("401|403")
	imageAbsent    = regexp.MustCompile(absentWords)
	imageForbidden = regexp.MustCompile(forbiddenWords + `|no basic auth credentials|failed to authorize`)
)

// imageThere is what containerd says when something else than the image is not found: its platform, a tool or a part of it on the node.
var imageThere = regexp.MustCompile(`no match for platform|failed to unpack image|failed to extract layer|content digest |executable file not found`)

// registryRefuses are what a registry says when it has answered, and the answer is no.
var registryRefuses = regexp.MustCompile(absentWords + `|manifest invalid|invalid reference|` + forbiddenWords)

// registrySilent are what Go's net, net/http and crypto packages, the C library, containerd, CRI-O and the kubelet say when nobody answers,
// or when the answer is that there are too many requests; after a proxy's name, the proxy's answer. A certificate is the registry's own,
// too: what came from there before would not come today. "context canceled" is containerd's word for a pull that makes no progress;
// RegistryUnavailable is from https://github.com/kubernetes/cri-api/blob/v0.37.2/pkg/errors/errors.go, "the registry is unavailable" from
// pkg/kubelet/images/image_manager.go, "pull QPS exceeded" from pkg/kubelet/images/helpers.go.
var registrySilent = regexp.MustCompile(`connection refused|connection reset|connection timed out|broken pipe|no route to host|` +
	`network is unreachable|i/o timeout|TLS handshake timeout|Client\.Timeout exceeded|timeout awaiting|context deadline exceeded|context canceled|` +
	`no such host|server misbehaving|Temporary failure in name resolution|server gave HTTP response|stream error: stream ID|` +
	`(?:^|\s)(?:EOF\b|RegistryUnavailable\b|x509: |tls: |http2: |(?i:too ?many ?requests))|the registry is unavailable|pull QPS exceeded|` +
	`": (?i:service unavailable|bad gateway|gateway time-?out)|\b(?:429|500|502|503|504) [A-Z]|` + withStatus(`429|50[0234]|52\d`))

// runtimeSilent is what the kubelet says when the node's container runtime does not answer.
var runtimeSilent = regexp.MustCompile(`code = Unavailable desc = .*dial unix `)

// registryAway reports whether the kubelet's message about a pull says that the registry does not answer or throttles. If one of
// several mirrors has said no, it does not.
func registryAway(message string) bool {
	return !registryRefuses.MatchString(message) && !runtimeSilent.MatchString(message) && registrySilent.MatchString(message)
}

// objectMissing is from pkg/volume/{secret,configmap,hostpath} of v1.37.2 and the API server's 404. A bare "not found" would be too
// much: the kubelet also says it of CSI drivers, of mount helpers and of volumes.
var objectMissing = regexp.MustCompile(`\b(secrets?|configmaps?) "[^"]*" not found|` +
	`references non-existent (config|secret) key|hostPath type check failed`)

// missingObject reports whether the text of an Event FailedMount says that a Secret, a ConfigMap, a key or a path is not there. A kubelet
// that was restarted says "not registered" of objects that are, also about healthy pods.
func missingObject(eventMessage string) bool {
	return objectMissing.MatchString(eventMessage) && !strings.Contains(eventMessage, "not registered")
}

// cannotBind reports whether the scheduler says that a volume of a pod cannot be provisioned: volumebinding/binder.go of v1.37.2. Its reason
// is SchedulerError then, as for errors of its own, which say nothing about the pod.
func cannotBind(schedulerMessage string) bool {
	return strings.Contains(schedulerMessage, ": binding volumes: ")
}

// claimNotFound is from pkg/scheduler/framework/plugins/volumebinding/volume_binding.go of v1.37.2.
var claimNotFound = regexp.MustCompile(`\bpersistentvolumeclaim "([^"]+)" not found`)

// claimMissing returns the claim that is not there, by the scheduler's message. A claim that is not bound, that is being deleted or
// that a controller has yet to make for an ephemeral volume is not missing.
func claimMissing(schedulerMessage string) (claim string, ok bool) {
	found := claimNotFound.FindStringSubmatch(schedulerMessage)
	if found == nil {
		return "", false
	}
	return found[1], true
}
