# Everything a newcomer types. `make setup` is run by the other targets when something changed since the last time.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOLDFAST := $(CURDIR)/$(BIN)/holdfast
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --require-hashes
PYTEST_ARGS ?=
export DEBIAN_FRONTEND := noninteractive

# command:package or file:package, what the product calls at run time, and what only its tests call or compare with
RUN_TOOLS := mmdebstrap:mmdebstrap nft:nftables git:git
TEST_TOOLS := busybox:busybox-static ip:iproute2 dot:graphviz iptables-legacy:iptables skopeo:skopeo \
  /usr/share/containers/seccomp.json:golang-github-containers-common

.PHONY: help setup test-setup demo demo-down test lint bench schemas lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 22

# Compiled ahead: a host that writes no bytecode (PYTHONDONTWRITEBYTECODE) would compile all of it for each command.
setup: $(VENV)/.run-tools $(VENV)/.installed ## system packages that are missing, .venv and .venv/bin/holdfast
	@$(BIN)/python -m compileall -q reconciler runtime schemas

test-setup: setup $(VENV)/.test-tools $(VENV)/.dev-installed ## the same for the test suite

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "cannot set up: $(PYTHON) is older than 3.11 (try: make setup PYTHON=python3.12)" >&2; exit 1; }
	echo "making $(VENV)"
	$(PYTHON) -m venv $(VENV) || {
	  echo "cannot make $(VENV): install python3-venv first (apt-get install python3-venv)" >&2; rm -rf $(VENV); exit 1; }

define install_tools
	missing=()
	for pair in $(1); do
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || [ -f "$${pair%%:*}" ] || missing+=("$${pair##*:}")
	done
	if [ "$${#missing[@]}" -gt 0 ]; then
	  command -v apt-get >/dev/null || { echo "cannot install $${missing[*]}: no apt-get here; install them by hand" >&2; exit 1; }
	  echo "installing system packages: $${missing[*]}"
	  $(SUDO) apt-get update -qq
	  $(SUDO) apt-get install -qq -y --no-install-recommends "$${missing[@]}" >/dev/null
	fi
	touch $@
endef

$(VENV)/.run-tools: Makefile | $(VENV)/bin/python
	@$(call install_tools,$(RUN_TOOLS))

$(VENV)/.test-tools: Makefile | $(VENV)/bin/python
	@$(call install_tools,$(TEST_TOOLS))

# --no-build-isolation: hatchling and editables come from the lock too, so nothing unlocked is ever fetched.
$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing locked requirements"
	$(PIP_INSTALL) -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev-installed: requirements-dev.txt $(VENV)/.installed
	@echo "installing locked development requirements"
	$(PIP_INSTALL) -r requirements-dev.txt
	touch $@

demo: setup ## converge manifests/examples/shop, kill a container, watch it heal
	@$(SUDO) env PATH="$$PATH" manifests/examples/demo.sh up

demo-down: setup ## remove everything the demo made
	@$(SUDO) env PATH="$$PATH" manifests/examples/demo.sh down

lint: test-setup ## ruff, import contracts, mypy
	@echo "== ruff"; $(BIN)/ruff check .; $(BIN)/ruff format --check .
	echo "== import contracts"; $(BIN)/lint-imports --no-logo
	echo "== mypy --strict"; $(BIN)/mypy

test: lint ## lint, then every test (root is needed: containers are real)
	@[ "$$(id -u)" = 0 ] || { echo "cannot run the tests: containers need root (try: sudo make test)" >&2; exit 1; }
	echo "== pytest"; $(BIN)/pytest $(PYTEST_ARGS)

bench: test-setup ## the figures the project owes, beside its peers where they are installed
	@$(BIN)/python -m tests.bench

schemas: test-setup ## write schemas/json from the models
	@$(BIN)/python -m schemas.generate

lock: ## requirements.txt and requirements-dev.txt from pyproject.toml, with hashes
	@mkdir -p build
	[ -x build/uv/bin/uv ] || { $(PYTHON) -m venv build/uv; build/uv/bin/pip install --quiet uv; }
	compile() { build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command 'make lock' --extra build "$$@" pyproject.toml; }
	compile -o requirements.txt
	compile --extra dev -c requirements.txt -o requirements-dev.txt

clean: ## forget the virtual environment and caches (never the state root)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
