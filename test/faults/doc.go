// Package faults has no code, only tests: what becomes of a release when the way between Belay and a real API server is disturbed.
//
// Each Belay has a proxy to itself. A story (a release that fails, say) is told once undisturbed, which numbers Belay's requests. Then it
// is told again for each of these numbers and each fault: an answer that is lost, a watch that stands still, a process that is killed.
// Whatever happens, the same has to become of it, which laws_test.go says.
//
// The laws themselves, and what the proxy does, are tried without a cluster: TestLaws and TestProxy.
//
// The stories run against the cluster of hack/cluster.sh, which hack/faults.sh starts. What TestFaults/rollback/7/answer-lost-504 was is told again by
//
//	hack/faults.sh -run TestFaults -story '^rollback$' -at 7 -fault '^answer-lost-504$'
//
// TestChurn, on demand, changes many objects at random while the leader of two Belays is killed again and again:
//
//	hack/faults.sh -run TestChurn -churn 1m -objects 60
package faults
