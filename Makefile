# All that a developer and CI need; `make help` lists the targets.
SHELL := /bin/bash
CACHE := $(CURDIR)/.cache
BIN := $(CACHE)/bin
GOLANGCI := v2.15.0
GOFUMPT := v0.12.0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

export CGO_ENABLED ?= 0
export GOBIN := $(BIN)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: engine build ## start the whole hub on this machine, with simulated traffic
	bin/welfarehub up $(ARGS)

.PHONY: build
build: ## build bin/welfarehub
	@echo "build: bin/welfarehub"
	@go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/welfarehub ./cmd/welfarehub

.PHONY: engine
engine: ## install the ClickHouse engine library into .cache/engine
	@deploy/engine/install.sh

.PHONY: test
test: engine build ## run the tests that need neither Java nor Docker
	go test -timeout 30m ./...

.PHONY: test-kafka
test-kafka: engine build ## run what needs Java: the integration tests on a real Apache Kafka, and the JDBC test
	deploy/kafka-test/install.sh
	tests/jdbc/install.sh
	WELFAREHUB_KAFKA=jars go test -count=1 -timeout 30m ./consumers/... ./pkg/testkit/... ./pkg/registry/... ./producers/... ./tests/replay/...
	go test -count=1 -run 'JDBC' ./tests/e2e

.PHONY: test-containers
test-containers: engine build ## run the integration tests, and faults, on containers
	deploy/images/run.sh go test -count=1 -timeout 20m ./tests/containers/... ./consumers/load/...

.PHONY: test-all
test-all: test test-kafka test-containers ## run all of them

.PHONY: torture
torture: engine ## a million schedules of the protocol; then kill, stop, cut off and starve the hub at every step: KILLS=200 ROUNDS=1 SEED=0 PARALLEL=2
	@mkdir -p $(CACHE) && rm -f $(CACHE)/torture.jsonl
	go test -count=1 -timeout 2h -run TestProtocolUnderFaults ./consumers/load -args -schedules $(or $(SCHEDULES),1000000)
	WELFAREHUB_TORTURE=1 go test -count=1 -timeout 5h -parallel $(or $(PARALLEL),2) ./tests/torture \
	  -args -kills $(or $(KILLS),200) -rounds $(or $(ROUNDS),1) -seed $(or $(SEED),0) -results $(CACHE)/torture.jsonl

.PHONY: torture-report
torture-report: ## show the results of the last make torture in docs/guarantees.md
	cp $(CACHE)/torture.jsonl tests/torture/testdata/results.jsonl
	go test -count=1 -run TestGuaranteesTable ./tests/torture -args -update

.PHONY: race
race: engine ## run the tests of the concurrent packages under the race detector
	CGO_ENABLED=1 go test -race -count=1 -timeout 40m ./consumers/... ./pkg/broker/... ./pkg/registry/... ./pkg/dedup/... ./producers/...

.PHONY: fuzz
fuzz: ## fuzz each decoder of outside bytes for FUZZTIME (20s)
	@for p in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -rhoP '^func \KFuzz\w+' $$p/*_test.go); do go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-20s} $$p || exit 1; done; done

.PHONY: bench
bench: bench-loader ## measure the loader against its peers, and write bench/RESULTS.md (hours of a quiet machine; ARGS names questions)
	$(BIN)/bench-loader -out $(CACHE)/bench.md -results bench/RESULTS.md $(or $(ARGS),full)

.PHONY: bench-quick
bench-quick: bench-loader ## the same in minutes, ours and the peers only; writes nothing
	$(BIN)/bench-loader $(ARGS) quick

.PHONY: bench-loader
bench-loader: engine
	deploy/kafka-test/install.sh
	go build -trimpath -o $(BIN)/bench-loader ./bench/loader

.PHONY: bench-go
bench-go: ## run the Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: generate
generate: ## remake generated files
	go generate ./...

.PHONY: check-generated
check-generated: generate ## fail where generated files have drifted
	@git diff --exit-code -- pkg schemas docs || { echo "generated files have drifted: commit what 'make generate' made" >&2; exit 1; }

.PHONY: lint
lint: lint-tools ## golangci-lint, gofumpt, vet, tidy go.mod, generated files
	go vet ./...
	$(BIN)/golangci-lint run ./...
	@out=$$($(BIN)/gofumpt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofumpt'd:"; echo "$$out"; exit 1; }
	@cp go.mod $(CACHE)/go.mod.before; cp go.sum $(CACHE)/go.sum.before; go mod tidy; \
	  cmp -s go.mod $(CACHE)/go.mod.before && cmp -s go.sum $(CACHE)/go.sum.before || { echo "go.mod or go.sum is not tidy: run go mod tidy" >&2; exit 1; }
	@$(MAKE) --no-print-directory check-generated
	bin/welfarehub schema check

.PHONY: lint-tools
lint-tools: build
	@mkdir -p $(BIN)
	@$(BIN)/golangci-lint version 2>/dev/null | grep -q '$(GOLANGCI:v%=%)' || go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	@$(BIN)/gofumpt -version 2>/dev/null | grep -q '$(GOFUMPT)' || go install mvdan.cc/gofumpt@$(GOFUMPT)

.PHONY: clean
clean: ## remove what builds made; the data of 'make up' stays
	rm -rf bin
