// Package node tells the whole story on a real node: a real control plane, kubelet, kube-proxy and containerd, with
// Belay installed as a user installs it, from its own image and its own manifests.
//
//	make test-node                       # needs root and linux; says which Debian packages are missing
//	BELAY_NODE=1 go test ./test/node -v  # the same
//	BELAY_NODE_KEEP=1 make test-node     # keeps logs and data in the directory that it names
//
// A service gets good and bad releases: one that exits, an image and a ConfigMap that do not exist, a server that sickens
// in the soak. The leader of the two Belays is killed in the middle of a rollback, and at last Belay is uninstalled. All
// the while a client calls the service through kube-proxy's rules, and no request may fail. Every part is asserted on
// what the cluster shows, and how often Belay moved the Deployment on the API server's audit log. What was measured is
// printed at the end.
//
// After the story come trials (judge_test.go), a few at a time: each has an object of its own with a good release, and then one that
// the judge has to tell apart by what a real kubelet writes: what its pods do, and what is done to them. A second kubelet, with a
// containerd of its own, is there to be stopped. One trial (in_place_test.go) is of a plain Deployment that is guarded in place.
//
// Nothing is left on the machine, however the run ends, because the node lives in namespaces of its own (processes,
// network, mounts), and the kernel takes everything in them away when their first process ends. The test binary runs
// three times:
//
//	outside  on the machine: checks what is needed, builds the programs and the images, starts the next, and compares the
//	         machine with what it was before
//	first    the first process in the namespaces: gives the node mounts of its own, and takes care of orphans
//	inside   starts the node and runs the test
//
// What no namespace holds is taken back at the end: the cgroups of the containers and some settings of the kernel that a
// kubelet makes. Only a SIGKILL of the outermost process leaves these, with the scratch directory.
//
// No registry outside is asked for anything: the images are built on the spot, Belay's from the Dockerfile with the machine's
// own Go toolchain. A registry of the node's own holds those whose tags move (images_moved_test.go).
//
// Read story_test.go first, then trial_test.go.
package node
