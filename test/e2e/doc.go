// Package e2e runs the real belay binary against a real cluster and looks at what it does to releases.
//
//	make test                                  # starts the embedded cluster and runs this
//	BELAY_E2E=1 go test ./test/e2e -v          # on .cluster/kubeconfig, or the cluster that KUBECONFIG names
//	BELAY_E2E=1 go test ./test/e2e -run Failure  # some of it
//
// Without BELAY_E2E nothing runs, so that "go test ./..." needs no cluster. No other belay may work in the cluster at
// the same time, unless it is the one to be tested: then say -external. On real nodes say -pods=real. What else can be
// chosen is at the top of main_test.go.
//
// Read the tests first: release_test.go, then failure_test.go. Each has a namespace of its own, and is named by its
// subject and the case. What they are written with:
//
//	main_test.go       flags, and what is there before and after all tests
//	cluster_test.go    the cluster and its clients
//	process_test.go    the belay process
//	behaviour_test.go  what makes a pod behave well or badly
//	kubelet_test.go    nodes whose kubelet the test plays: what happens to pods beyond what a tag says
//	namespace_test.go  the namespace of a test, and what is printed when it fails
//	object_test.go     a GuardedDeployment in a test, and what belongs to it
//	expect_test.go     what a test waits for
//	seen_test.go       what the tests watch
//	kstatus_test.go    what tools that wait make of every status that is seen
//	rights_test.go     what belay may do, and whether that is what it does
//	relay_test.go      connections that can be cut, or fall silent
//	audit_test.go      Belay's own writes, from the audit log of the embedded cluster
//	in_place_test.go   a Deployment that is guarded in place, in a test; in_place_holds_test.go: the policy that holds
//	admission_test.go  admission policies for the Deployments of a test
//	helm_test.go       a chart, and the real Helm
//	fields_test.go     the fields of an API type, and of a value
//	figures_test.go    what was measured, printed at the end
//
// Tests that stop a part of the cluster or belay itself, or that measure times, are not parallel: the testing package
// runs these first, and the belay that all others share is started after them. A test with parallel subtests has to be
// parallel itself: otherwise they start that belay too early.
package e2e
