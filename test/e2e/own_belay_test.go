package e2e

import "testing"

// TestOwnBelay has the tests that end and start a Belay, or set it up otherwise, at the same time: each in a namespace that no other Belay
// works in. Not parallel itself, because the belay that is shared works in all.
func TestOwnBelay(t *testing.T) {
	if *externalFlag {
		t.Skip("this needs belays of its own, and -external says that one runs already")
	}
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Deletion_WhileBelayIsDown", testDeletionWhileBelayIsDown},
		{"InPlace_BelayKilled", testInPlaceBelayKilled},
		{"InPlace_GuardDefaults", testInPlaceGuardDefaults},
		{"InPlace_WithoutRights", testInPlaceWithoutRights},
		{"LeastPrivilege", testLeastPrivilege},
		{"Metrics_AndLog", testMetricsAndLog},
		{"MutatingPolicy_BelayRestarted", testMutatingPolicyBelayRestarted},
		{"Orphan_ReleasedByHand", testOrphanReleasedByHand},
		{"Outage_BelayKilled", testOutageBelayKilled},
		{"Restart_BelayRestarted", testRestartBelayRestarted},
		{"Retry_AutomaticAcrossRestart", testRetryAutomaticAcrossRestart},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}
