package rollout

import (
	"testing"

	"github.com/belay-dev/belay/pkg/apis/belay/v1alpha1"
)

func TestRefusal_Kind(t *testing.T) {
	for _, test := range []struct {
		name, message string
		kind          refusalKind
		cause         string
	}{
		{"quota", `Error creating: pods "web-6d-x2" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3`,
			refusedByQuota, v1alpha1.CauseQuota},
		{"quota in a condition", `pods "web-6d-x2" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3`,
			refusedByQuota, v1alpha1.CauseQuota},
		{"quota on ReplicaSets", `Failed to create new replica set "web-6d": replicasets.apps "web-6d" is forbidden: exceeded quota: q, requested: count/replicasets.apps=1, used: count/replicasets.apps=2, limited: count/replicasets.apps=2`,
			refusedByQuota, v1alpha1.CauseQuota},
		{"quota of other scopes", `Error creating: insufficient quota to match these scopes: [{PriorityClass In [system-node-critical]}]`,
			refusedByQuota, v1alpha1.CauseQuota},
		{"no quota covers it", `Error creating: pods "web-x" is forbidden: insufficient quota to consume: requests.cpu`,
			refusedByQuota, v1alpha1.CauseQuota},
		{"quota wants a field", `Error creating: pods "web-x" is forbidden: failed quota: q: must specify limits.cpu for: web`,
			refusedForGood, v1alpha1.CauseForbidden},
		{"quota unknown", `Error creating: pods "web-x" is forbidden: status unknown for quota: q, resources: pods`, refusedByCluster, ""},
		{"quota times out", `Error creating: Internal error occurred: resource quota evaluation timed out`, refusedByCluster, ""},

		{"webhook away", `Error creating: Internal error occurred: failed calling webhook "inject.example.com": failed to call webhook: Post "https://inject.mesh.svc:443/?timeout=10s": dial tcp 10.0.0.7:443: connect: connection refused`,
			refusedByCluster, ""},
		{"webhook quoted in a failed call", `Error creating: Internal error occurred: failed calling webhook "a.example.com": failed to call webhook: an error on the server ("admission webhook \"b\" denied the request") has prevented the request from succeeding`,
			refusedByCluster, ""},
		{"webhooks too slow", `Error creating: Timeout: request did not complete within requested timeout - context deadline exceeded`, refusedByCluster, ""},
		{"webhook denies", `Error creating: admission webhook "policy.example.com" denied the request: image is not signed`,
			refusedForGood, v1alpha1.CauseWebhookDenied},
		{"webhook denies without words", `Error creating: admission webhook "policy.example.com" denied the request without explanation`,
			refusedForGood, v1alpha1.CauseWebhookDenied},
		{"webhook denies and says quota", `Error creating: admission webhook "policy.example.com" denied the request: pods "x" is forbidden: exceeded quota: team, requested: 1`,
			refusedForGood, v1alpha1.CauseWebhookDenied},
		{"webhook denies and says internal", `Error creating: admission webhook "policy.example.com" denied the request: Internal error occurred: no label`,
			refusedForGood, v1alpha1.CauseWebhookDenied},
		{"webhook denies the tenth time", `(combined from similar events): Error creating: admission webhook "policy.example.com" denied the request: no`,
			refusedForGood, v1alpha1.CauseWebhookDenied},

		{"policy", `Error creating: pods "web-x" is forbidden: ValidatingAdmissionPolicy 'tags' with binding 'all' denied request: exceeded quota: of latest tags`,
			refusedForGood, v1alpha1.CauseForbidden},
		{"policy without parameters", `Error creating: pods "web-x" is forbidden: ValidatingAdmissionPolicy 'tags' with binding 'all' denied request: failed to configure binding: no params found for policy binding with ` + "`Deny` parameterNotFoundAction",
			refusedByCluster, ""},
		{"mutating policy", `Error creating: policy 'sidecars' with binding 'all' denied request: no such key: x`, refusedForGood, v1alpha1.CauseForbidden},
		{"mutating policy without a binding", `Error creating: policy "sidecars" denied request: failed to configure policy: no such parameter`, refusedByCluster, ""},
		{"pod security", `Error creating: pods "web-x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "web" must not set securityContext.privileged=true)`,
			refusedForGood, v1alpha1.CauseForbidden},
		{"service account", `Error creating: pods "web-6d-" is forbidden: error looking up service account shop/nobody: serviceaccount "nobody" not found`,
			refusedForGood, v1alpha1.CauseForbidden},
		{"service account cannot be read", `Error creating: pods "web-6d-" is forbidden: error looking up service account shop/web: etcdserver: request timed out`,
			refusedByCluster, ""},
		{"limit range", `Error creating: pods "web-x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi`,
			refusedForGood, v1alpha1.CauseForbidden},
		{"limit range cannot be read", `Error creating: pods "web-x" is forbidden: unable to CREATE /v1, Resource=pods at this time because there was an error enforcing limit ranges`,
			refusedByCluster, ""},
		{"priority class", `Error creating: pods "web-x" is forbidden: no PriorityClass with name nope was found`, refusedForGood, v1alpha1.CauseForbidden},
		{"runtime class", `Error creating: pods "web-x" is forbidden: pod rejected: RuntimeClass "nope" not found`, refusedForGood, v1alpha1.CauseForbidden},
		{"invalid", `Error creating: Pod "web-x" is invalid: spec.containers[0].image: Required value`, refusedForGood, v1alpha1.CauseForbidden},
		{"tolerations", `Error creating: pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist`,
			refusedForGood, v1alpha1.CauseForbidden},
		{"undecodable", `Error creating: Pod in version "v1" cannot be handled as a Pod: strict decoding error`, refusedForGood, v1alpha1.CauseForbidden},
		{"too large", `Error creating: etcdserver: request is too large`, refusedForGood, ""},
		{"too large for the server", `Error creating: Request entity too large: limit is 3145728`, refusedForGood, ""},
		{"too large to send", `Error creating: rpc error: code = ResourceExhausted desc = trying to send message larger than max (4 vs. 2)`, refusedForGood, ""},

		{"namespace goes", `Error creating: pods "web-x" is forbidden: unable to create new content in namespace shop because it is being terminated`,
			refusedByCluster, ""},
		{"server starts", `Error creating: pods "web-x" is forbidden: not yet ready to handle request`, refusedByCluster, ""},
		{"controller has no right", `Error creating: pods is forbidden: User "system:serviceaccount:kube-system:replicaset-controller" cannot create resource "pods" in API group "" in the namespace "shop"`,
			refusedByCluster, ""},
		{"controller has no right to name", `Error creating: pods "web-x" is forbidden: User "replicaset-controller" cannot create resource "pods"`, refusedByCluster, ""},
		{"owner cannot be set", `Error creating: pods "web-x" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>`,
			refusedByCluster, ""},
		{"owner cannot be deleted", `Error creating: pods "web-x" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>`,
			refusedByCluster, ""},
		{"image policy", `Error creating: pods "web-x" is forbidden: image policy webhook backend denied one or more images: no`, refusedForGood, v1alpha1.CauseForbidden},
		{"image policy away", `Error creating: pods "web-x" is forbidden: Post "https://policy.example.com/": dial tcp 10.0.0.7:443: connect: connection refused`, refusedByCluster, ""},
		{"image policy fails", `Error creating: pods "web-x" is forbidden: an error on the server ("") has prevented the request from succeeding`, refusedByCluster, ""},
		{"image policy answers nonsense", `Error creating: pods "web-x" is forbidden: Error contacting webhook: 302`, refusedByCluster, ""},
		{"store", `Error creating: etcdserver: leader changed`, refusedByCluster, ""},
		{"nothing", ``, refusedByCluster, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if kind, cause := refusalOf(test.message); kind != test.kind || cause != test.cause {
				t.Errorf("got %d %q, want %d %q", kind, cause, test.kind, test.cause)
			}
		})
	}
}

func TestRefusal_RegistryAway(t *testing.T) {
	const pull = `Back-off pulling image "reg.example.com/app:503": ErrImagePull: failed to pull and unpack image "reg.example.com/app:503": failed to resolve reference "reg.example.com/app:503": `
	for text, away := range map[string]bool{
		`failed to do request: Head "https://reg.example.com/v2/app/manifests/503": dial tcp 10.0.0.7:443: connect: connection refused`: true,
		`failed to do request: Head "https://reg.example.com/v2/": dial tcp 10.0.0.7:443: i/o timeout`:                                  true,
		`failed to do request: Head "https://reg.example.com/v2/": net/http: TLS handshake timeout`:                                     true,
		`dial tcp: lookup reg.example.com on 10.0.0.10:53: no such host`:                                                                true,
		`dial tcp: lookup reg.example.com on 10.0.0.10:53: server misbehaving`:                                                          true,
		`failed to copy: httpReadSeeker: failed open: failed to do request: Get "https://reg.example.com/v2/": EOF`:                     true,
		`failed to copy: httpReadSeeker: failed open: unexpected EOF`:                                                                   true,
		`read tcp 10.0.0.1:5->10.0.0.7:443: read: connection reset by peer`:                                                             true,
		`write tcp 10.0.0.1:5->10.0.0.7:443: write: broken pipe`:                                                                        true,
		`dial tcp 10.0.0.7:443: connect: connection timed out`:                                                                          true,
		`dial tcp 10.0.0.7:443: connect: no route to host`:                                                                              true,
		`dial tcp 10.0.0.7:443: connect: network is unreachable`:                                                                        true,
		`net/http: request canceled (Client.Timeout exceeded while awaiting headers)`:                                                   true,
		`context deadline exceeded`: true,
		`context canceled`:          true,
		`unexpected status from HEAD request to https://reg.example.com/v2/app/manifests/503: 500 Internal Server Error`:                               true,
		`unexpected status from HEAD request to https://reg.example.com/v2/app/manifests/503: 502 Bad Gateway`:                                         true,
		`unexpected status from HEAD request to https://reg.example.com/v2/app/manifests/503: 503 Service Unavailable`:                                 true,
		`failed to fetch anonymous token: unexpected status: 504 Gateway Time-out`:                                                                     true,
		`unexpected status code https://reg.example.com/v2/: 429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate`: true,
		`toomanyrequests: Rate exceeded`:                                                       true,
		`reading manifest 503: StatusCode: 503`:                                                true,
		`Status 429 trying to pull repository app`:                                             true,
		`tls: failed to verify certificate: x509: certificate has expired or is not yet valid`: true,
		`RegistryUnavailable: image pull failed`:                                               true,
		`image pull failed for reg.example.com/app:503 because the registry is unavailable: 1`: true,
		`reading manifest 503 in reg.example.com/app: too many requests to registry`:           true,
		`unexpected status from HEAD request to https://reg.example.com/v2/: 502 BAD GATEWAY`:  true,
		`unexpected status from HEAD request to https://reg.example.com/v2/: 503 `:             true,
		`unexpected status from GET request to https://cdn.example.com/blob: 525 <none>`:       true,
		`requesting bearer token: invalid status code from registry 503 (Service Unavailable)`: true,
		`dial tcp: lookup reg.example.com: Temporary failure in name resolution`:               true,
		`failed to do request: Head "https://reg": Service Unavailable`:                        true,
		`net/http: timeout awaiting response headers`:                                          true,
		`http2: server sent GOAWAY and closed the connection`:                                  true,
		`stream error: stream ID 3; INTERNAL_ERROR; received from peer`:                        true,
		`remote error: tls: internal error`:                                                    true,
		`http: server gave HTTP response to HTTPS client`:                                      true,
		`pull QPS exceeded`: true,

		`reg.example.com/app:503: not found`: false,
		`manifest unknown: 500 Oops`:         false,
		`pulling from host reg.example.com failed with status code [manifests 503]: 401 Unauthorized`:                                          false,
		`failed to authorize: failed to fetch anonymous token: unexpected status: 403 Forbidden`:                                               false,
		`pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed`: false,
		`requested access to the resource is denied`:                                                                                           false,
		`denied: your authorization token has expired`:                                                                                         false,
		`unauthorized: authentication required`:                                                                                                false,
		`unexpected status from HEAD request to https://reg.example.com/v2/: 401 UNAUTHORIZED`:                                                 false,
		`unexpected status from HEAD request to https://reg.example.com/v2/: 403 `:                                                             false,
		`unexpected status from GET request to https://reg.example.com/token: 404 Not Found`:                                                   false,
		`code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial unix /c.sock: connect: connection refused"`:  false,
		`invalid reference format`:                                            false,
		`no space left on device`:                                             false,
		`no match for platform in manifest: EOFs`:                             false,
		`(mirrors also failed: [dial tcp: connection refused]): name unknown`: false,
	} {
		if got := registryAway(pull + text); got != away {
			t.Errorf("%s: got %v, want %v", text, got, away)
		}
	}
}

// What an image is called says nothing of its registry.
func TestRefusal_RegistryAway_Names(t *testing.T) {
	for _, name := range []string{"denied", "unauthorized", "x509", "tls", "toomanyrequests", "app:EOF", "app:RegistryUnavailable"} {
		for text, away := range map[string]bool{
			`failed to pull and unpack image "r.io/` + name + `": r.io/` + name + `: connect: connection refused`: true,
			`reading manifest 1 in r.io/` + name + `: StatusCode: 503`:                                            true,
			`failed to pull and unpack image "r.io/` + name + `": r.io/` + name + `: no space left on device`:     false,
		} {
			if got := registryAway(text); got != away {
				t.Errorf("%s: got %v, want %v", text, got, away)
			}
		}
	}
}

func TestRefusal_MissingObject(t *testing.T) {
	for text, missing := range map[string]bool{
		`MountVolume.SetUp failed for volume "c" : configmap "nope" not found`:                                                                           true,
		`MountVolume.SetUp failed for volume "s" : secret "nope" not found`:                                                                              true,
		`MountVolume.SetUp failed for volume "s" : secrets "nope" not found`:                                                                             true,
		`MountVolume.SetUp failed for volume "c" : configmap references non-existent config key: k`:                                                      true,
		`MountVolume.SetUp failed for volume "s" : references non-existent secret key: k`:                                                                true,
		`MountVolume.SetUp failed for volume "h" : hostPath type check failed: /srv is not a directory`:                                                  true,
		`MountVolume.SetUp failed for volume "kube-api-access-x" : object "shop"/"kube-root-ca.crt" not registered`:                                      false,
		`MountVolume.SetUp failed for volume "p" : [object "shop"/"a" not registered, configmap "b" not found]`:                                          false,
		`MountVolume.MountDevice failed for volume "v" : kubernetes.io/csi: driver name csi.example.com not found in the list of registered CSI drivers`: false,
		`MountVolume.SetUp failed for volume "n" : mount failed: exec: "mount.nfs": executable file not found in $PATH`:                                  false,
		`MountVolume.MountDevice failed for volume "v" : rpc error: code = NotFound desc = volume not found`:                                             false,
	} {
		if got := missingObject(text); got != missing {
			t.Errorf("%s: got %v, want %v", text, got, missing)
		}
	}
}

func TestRefusal_ClaimMissing(t *testing.T) {
	for text, claim := range map[string]string{
		`0/3 nodes are available: persistentvolumeclaim "data" not found. not found`:                                        "data",
		`0/3 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "web-x-tmp".`: "",
		`0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.`:                                        "",
		`0/3 nodes are available: persistentvolumeclaim "data" is being deleted.`:                                           "",
		`0/3 nodes are available: persistentvolumeclaim "data" bound to non-existent persistentvolume "pv".`:                "",
	} {
		if got, ok := claimMissing(text); got != claim || ok != (claim != "") {
			t.Errorf("%s: got %q %v", text, got, ok)
		}
	}
}
