# Commands of this project; `make` lists them. Each installs what it needs first.

SHELL := /bin/bash
.SHELLFLAGS := -Eeuo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
EVALUATION := $(VENV)/.evaluation-installed
REFERENCE_VENV := .venv-modelscope
REFERENCE := $(REFERENCE_VENV)/.installed
RAY_VENV := .venv-ray
RAY_BIN := $(RAY_VENV)/bin
RAY := $(RAY_VENV)/.installed

# Arguments for the command, e.g. make demo ARGS="--port 7861", make test ARGS="-k tokenizer".
ARGS ?=
# A hub id or model folder for `make run`, `make evaluate`, `make parity` and `make bench`.
MODEL ?=
# Flags of the service for `make cluster`, e.g. FLAGS="--model FOLDER --timeout 20".
FLAGS ?=
# Labelled data for `make evaluate`.
DATA ?=
# An extra index for torch wheels, e.g. CPU-only ones. Used when the environment is created.
TORCH_INDEX ?=
# Packages that the GPU check needs besides torch, numpy, pillow, tokenizers, safetensors, tqdm and psutil, and the
# Python version for which `make gpu-site` downloads them.
GPU_SITE := flask waitress prometheus_client
GPU_PYTHON ?= 3.12
# The interpreter for the environments; detected unless given.
PYTHON ?=

PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --retries 10 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Remove an environment whose interpreter no longer runs (moved folder, upgraded system).
$(foreach venv,$(VENV) $(REFERENCE_VENV) $(RAY_VENV),$(shell \
    if [ -e $(venv) ] && ! $(venv)/bin/python -c '' 2>/dev/null; then rm -rf $(venv); fi))

# Create the environment $(1) unless it exists.
define make_venv
	@set -Eeuo pipefail; \
	if [ -x $(1)/bin/python ]; then exit 0; fi; \
	python='$(PYTHON)'; \
	for candidate in python3.11 python3.12 python3; do \
	    [ -z "$$python" ] || break; \
	    if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; \
	    then python=$$candidate; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'Python 3.11 or 3.12 is required and was not found.' >&2; \
	    echo 'Install one (Debian 12: apt-get install python3 python3-venv), or pass it: make PYTHON=/path/to/python3.11 ...' >&2; \
	    exit 1; \
	fi; \
	echo "Creating the environment $(1) with $$python ($$($$python --version))"; \
	if ! $$python -m venv $(1); then \
	    rm -rf $(1); \
	    echo 'Cannot create the environment. On Debian and Ubuntu: apt-get install python3-venv' >&2; \
	    exit 1; \
	fi
endef

# Test processes: one more than two cores, since many tests wait for a process or a pause. `ARGS="-n 0"` uses none.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile

# Programs that the tests start besides Python.
TEST_PROGRAMS := git chromium curl gcc ps flock setsid setpriv prometheus promtool faketime logrotate nginx haproxy caddy

.PHONY: help setup demo run cluster test test-all test-cluster lint format evaluate parity bench gpu-check gpu-site faults clean

help:
	@echo 'make demo    serve the page with the bundled demo model on http://127.0.0.1:7860'
	@echo 'make run     serve the real model (MODEL=hub id or folder) on all addresses, ports 7860 and 8000'
	@echo 'make cluster   serve the demo model with Ray Serve on loopback, 2 replicas (ARGS="--replicas 3", docs/scaling.md)'
	@echo 'make setup   create the environment only, e.g. before ./guardian.sh'
	@echo 'make test    run the tests, including a real browser (ARGS="-k name" selects some)'
	@echo 'make test-all   also run the long tests: picture corpora, all hostile folders, repetitions, and test-cluster'
	@echo 'make test-cluster   kill, stop and disturb a real Ray cluster and its nodes (about 6 minutes)'
	@echo 'make lint    ruff, mypy, import-linter, shellcheck, Kubernetes manifests'
	@echo 'make format  format the code'
	@echo 'make evaluate   accuracy and calibration on labelled data (DATA=file, MODEL=demo, ARGS="--pictures folder")'
	@echo "make parity  compare with ModelScope's own pipeline (MODEL=hub id for real weights)"
	@echo "make bench   measure speed, memory and agreement (ARGS=--quick; ARGS=--reference adds ModelScope's side)"
	@echo 'make gpu-check  check precision, speed and faults on a GPU in at most 8 minutes (docs/performance.md)'
	@echo 'make gpu-site   download packages into build/gpu-site, for a GPU check without network'
	@echo 'make faults  inject faults into a guarded instance and write the tables (ARGS="--naive", "--soak 30", "--only kill,stop")'
	@echo 'make clean   remove environments and caches'
	@echo
	@echo 'Each creates its Python environment if needed. ARGS="..." is passed to the command.'

setup: $(RUNTIME)
	@echo 'The environment $(VENV) is ready'

demo: $(RUNTIME)
	$(BIN)/python web_app.py --model demo --host 127.0.0.1 --health-host 127.0.0.1 $(ARGS)

run: $(RUNTIME)
	$(BIN)/python web_app.py $(if $(MODEL),--model $(MODEL)) $(ARGS)

# ARGS are those of the cluster; flags of the service follow after -- in FLAGS.
cluster: $(RAY)
	$(RAY_BIN)/python -m cluster $(ARGS) -- --model demo $(FLAGS)

test: $(DEV)
	@tests/system_packages.sh $(TEST_PROGRAMS)
	$(PYTEST) -m 'not long' $(ARGS)

# In a network namespace of its own: no other process can reach Ray's ports, and nodes can have loopback addresses.
# The test of deploy/kubernetes/ray needs the users of this machine, which only root can have in it.
test-cluster: $(RAY)
	@tests/system_packages.sh unshare nsenter ip curl
	unshare $(if $(filter-out 0,$(shell id -u)),--map-root-user) --net sh -c 'ip link set lo up; exec "$$@"' sh \
	    $(RAY_BIN)/python -m pytest tests/cluster $(ARGS)

test-all: $(DEV)
	@tests/system_packages.sh $(TEST_PROGRAMS)
	$(PYTEST) $(ARGS)
	$(if $(ARGS),,@$(MAKE) --no-print-directory test-cluster)

lint: $(DEV)
	@tests/system_packages.sh git shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -f page/*.pyi # Gradio writes these on import, and mypy would read them instead of the code
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m lab.kubernetes
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# DATA may be empty, e.g. with ARGS="--compare A B".
evaluate: $(EVALUATION)
	$(BIN)/python -m evaluation $(if $(DATA),'$(DATA)') $(if $(MODEL),--model $(MODEL)) $(ARGS)

parity: $(DEV) $(REFERENCE)
	$(BIN)/python -m lab.parity --reference-python $(REFERENCE_VENV)/bin/python $(if $(MODEL),--model $(MODEL)) $(ARGS)

# Builds ModelScope's environment for --reference without a path.
bench: $(DEV) $(if $(filter --reference,$(ARGS)),$(REFERENCE))
	$(BIN)/python -m lab.bench $(if $(MODEL),--model $(MODEL)) $(ARGS)

gpu-check: $(DEV)
	$(BIN)/python -m lab.bench.gpu $(ARGS)

gpu-site: $(RUNTIME)
	rm -rf build/gpu-site
	$(BIN)/python $(PIP_INSTALL) --target build/gpu-site --python-version $(GPU_PYTHON) --only-binary=:all: \
	    -c requirements.txt -c constraints.txt $(GPU_SITE)

faults: $(DEV)
	@tests/system_packages.sh curl ps flock setsid unshare faketime
	@$(BIN)/python -m lab.faults.report $(ARGS)

clean:
	rm -rf $(VENV) $(REFERENCE_VENV) $(RAY_VENV) .mypy_cache .pytest_cache .ruff_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.txt constraints.txt
	$(call make_venv,$(VENV))
	@echo 'Installing requirements.txt; most of the download is torch'
	@$(BIN)/python $(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	@echo 'Installing requirements-dev.txt (tests and lint)'
	@$(BIN)/python $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(EVALUATION): requirements-evaluation.txt $(RUNTIME)
	@echo 'Installing requirements-evaluation.txt (figures and plots)'
	@$(BIN)/python $(PIP_INSTALL) -r requirements-evaluation.txt
	@touch $@

# With the runner of its tests.
$(RAY): requirements-ray.txt requirements.txt constraints.txt
	$(call make_venv,$(RAY_VENV))
	@echo 'Installing requirements-ray.txt: requirements.txt and Ray'
	@$(RAY_BIN)/python $(PIP_INSTALL) -r requirements-ray.txt $$(grep -E '^pytest(-timeout)?==' requirements-dev.txt)
	@touch $@

# torch, torchvision and torchaudio first, since fairseq builds against them.
$(REFERENCE): requirements-modelscope.txt
	$(call make_venv,$(REFERENCE_VENV))
	@echo "Installing ModelScope's own pipeline (requirements-modelscope.txt): about 5 GB, 5 minutes, a C compiler"
	@$(REFERENCE_VENV)/bin/python $(PIP_INSTALL) $$(grep '^torch' requirements-modelscope.txt)
	@$(REFERENCE_VENV)/bin/python $(PIP_INSTALL) -r requirements-modelscope.txt
	@touch $@
