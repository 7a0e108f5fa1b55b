# `make help` lists the targets. Every one of them runs on a Debian machine with Swift in PATH.
SHELL := /bin/bash
.DEFAULT_GOAL := help
SWIFT ?= swift
BUILD_DIR ?= .build
RELEASE_DIR := build
RELEASE_BINARY := $(BUILD_DIR)/release/edgemesh
# The static binary: the linker that comes with Swift drops unused sections and folds identical code.
RELEASE_FLAGS := -c release --static-swift-stdlib -Xswiftc -static-executable \
	-Xswiftc -use-ld=lld -Xlinker --gc-sections -Xlinker --icf=all \
	-Xswiftc -Xfrontend -Xswiftc -function-sections -Xcc -ffunction-sections -Xcc -fdata-sections

# For the shipped program alone.
RELEASE_LINKING := -Xlinker --no-eh-frame-hdr -Xlinker -T -Xlinker $(CURDIR)/scripts/release.ld

.PHONY: help bootstrap build demo nat-grid test test-fast interop bench lint fuzz release clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bootstrap: ## install the Debian packages that are missing (says what it does)
	@scripts/bootstrap

build: ## debug build of everything
	$(SWIFT) build

demo: release ## one node, then three LANs behind NATs: resolve, call, balance, punch, kill, cut, recover, HTTPS
	@scripts/demo $(RELEASE_DIR)/edgemesh

nat-grid: build ## which NATs can be crossed: real ones of the kernel, every kind with every other (needs root)
	@$(BUILD_DIR)/debug/nat-grid

test: ## all tests, those with network namespaces too (needs root)
	@scripts/run-tests

test-fast: ## unit tests only: no root, no network namespaces
	@scripts/run-tests fast

interop: ## libp2p with peers in Go and Python, which it installs
	@scripts/run-tests interop

lint: ## format, file sizes, imports, shell scripts
	@scripts/lint

bench: release ## benchmarks beside a peer in the same run (BENCH="--quick dns"; needs root)
	$(SWIFT) build $(RELEASE_FLAGS) --product meshbench
	$(SWIFT) build $(RELEASE_FLAGS) --product p2p-peer
	@scripts/bench $(BUILD_DIR)/release/meshbench $(RELEASE_DIR)/edgemesh $(BENCH)

fuzz: ## fuzz the decoders of hostile bytes, each for a minute (FUZZ="dns 600")
	@Fuzzing/run $(FUZZ)

release: ## the static, stripped binary and its symbolic links in build/
	$(SWIFT) build $(RELEASE_FLAGS) $(RELEASE_LINKING) --product edgemesh
	@mkdir -p $(RELEASE_DIR)
	@strip --strip-all -o $(RELEASE_DIR)/edgemesh.new $(RELEASE_BINARY)
	@mv -f $(RELEASE_DIR)/edgemesh.new $(RELEASE_DIR)/edgemesh
	@for name in agent gateway cni; do ln -sf edgemesh $(RELEASE_DIR)/edgemesh-$$name; done
	@ls -l $(RELEASE_DIR)

clean: ## remove what was built
	rm -rf $(BUILD_DIR) $(RELEASE_DIR)
