# Belay: rolls failed releases back. `make help` lists what there is.
# Nothing has to be installed but Go: the rest is built from Go modules.

export CGO_ENABLED ?= 0
KUBECONFIG ?= $(CURDIR)/.cluster/kubeconfig
export KUBECONFIG
# The version of Kubernetes of the local cluster: 1.36.3, 1.35 and so on; hack/cluster/versions has them. Default: the newest.
export KUBERNETES
# The race detector needs a C compiler. It is used where there is one.
RACE := $(if $(shell command -v gcc),CGO_ENABLED=1 go test -race,go test)

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/belay
	hack/cluster.sh belay

demo: build ## play the whole story on a local cluster: a label, a crash, the rollback; the same as a kind, and the fix; KEEP=1 leaves all running
	hack/demo.sh

cluster: ## start a local cluster: a real control plane with fake nodes; KUBERNETES=1.35 is an older one
	hack/cluster.sh up

cluster-down: ## end it
	hack/cluster.sh down

run: build ## run the controller against $KUBECONFIG, or else the local cluster
	bin/belay

test: unit alerts e2e faults-some ## run the tests that need no root, in about half an hour

# pkg/rollout has no goroutines, and the race detector makes it six times as slow.
unit: ## run the tests that need no cluster
	$(RACE) -skip '/CrashAtEveryWrite' $$(go list ./... | grep -v '/pkg/rollout$$')
	go test ./pkg/rollout
	go test . -run TestSimulation -sim.seeds 40
	go -C hack/cluster test ./...

alerts: ## check the alerts, and that each fires when it should
	hack/alerts.sh

e2e: build ## run the tests on a real API server: the local cluster, started if need be
	hack/e2e.sh

faults-some: ## tell 150 stories of releases with the way to the API server disturbed, chosen by a seed that is printed; before that, a minute of churn
	hack/faults.sh -run 'TestFaults|TestChurn' -churn 40s -objects 40 -pace 4

faults: ## tell all of them, two and a half thousand, about an hour, and all while the API server and etcd are killed; hack/faults.sh has flags
	hack/faults.sh -stories 0 -server

mutants: ## break Belay on purpose, and make sure that these stories show it
	hack/mutants.sh

test-tools: build ## release with Helm and with the code of Flux and Argo CD, which take about a minute to build
	hack/tools.sh -run 'Helm|InPlaceTools'

test-node: ## run the story on a real node with containers; needs root and linux, and leaves nothing behind
	BELAY_NODE=1 go test ./test/node -count=1 -timeout 30m -v

churn: ## have 300 objects changed at random for ten minutes, by two Belays of which the leader is killed every minute, and for five without; CHURN has flags (-objects, -pace, -seed)
	hack/faults.sh -run TestChurn -churn 10m -patience 5m $(CHURN)

long: ## run what takes longer than CI may: older Kubernetes, releases with other tools, the whole sweep of the schema, many seeds of the simulation, demos on a busy machine
	hack/long.sh

fuzz: ## look for what no test thought of in all that reads what others write: every fuzz test, a minute each
	hack/fuzz.sh

# A sample may be a few points off the whole: less is asked of it.
mutation: ## change the source in many small ways, one at a time, and make sure that tests notice nearly all; MUTATION has flags (-sample, -seed, -least)
	go run ./hack/mutation -files writes.go,reads.go $(MUTATION) ./internal/guard ./internal/inplace
	go run ./hack/mutation -sample 250 -least 85 -skip '^(TestEveryView|TestRows_Order)$$' $(MUTATION) ./pkg/rollout

bench: ## measure speed and size on a cluster of its own, in under five minutes; BENCH has flags (go run ./test/bench -h)
	go run ./test/bench $(BENCH)

bench-compare: ## measure, and compare with the committed bench/results.json
	go run ./test/bench -compare bench/results.json $(BENCH)

image: ## build the image with docker or buildah; IMAGE, VERSION, PLATFORM and BUILDER choose (hack/image.sh)
	hack/image.sh

generate: ## generate the clients and the CRD
	hack/update-codegen.sh

verify: ## check format, lint, generated code and the rules of the house
	hack/verify.sh

.PHONY: help build demo cluster cluster-down run test unit alerts e2e faults-some faults churn mutants test-tools test-node long fuzz mutation bench bench-compare image generate verify
