# The commands of this project. Each sets up what it needs by itself and says so; `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -Eeuo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
REFERENCE_VENV := .venv-modelscope
REFERENCE := $(REFERENCE_VENV)/.installed

# More arguments for the command that is run, e.g. make demo ARGS="--port 7861", make test ARGS="-k tokenizer".
ARGS ?=
# A hub id or a folder: what `make run` serves and `make parity` compares, in place of their own.
MODEL ?=
# Another index to look for torch's wheels in, e.g. one of CPU-only wheels. Counts when the environment is made.
TORCH_INDEX ?=
# What the GPU check needs beside torch, numpy, pillow, tokenizers, safetensors, tqdm and psutil, and for which Python
# `make gpu-site` fetches it.
GPU_SITE := flask waitress prometheus_client
GPU_PYTHON ?= 3.12
# The interpreter to build environments with; found by itself when not given.
PYTHON ?=

PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --retries 10 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# An environment whose interpreter is gone (moved folder, upgraded system) is made anew.
$(foreach venv,$(VENV) $(REFERENCE_VENV),$(shell \
    if [ -e $(venv) ] && ! $(venv)/bin/python -c '' 2>/dev/null; then rm -rf $(venv); fi))

# Makes the environment $(1) if it is not there.
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
	    echo 'Python 3.11 or 3.12 is needed and neither was found.' >&2; \
	    echo 'Install one (Debian 12: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11 ...' >&2; \
	    exit 1; \
	fi; \
	echo "Making the environment $(1) with $$python ($$($$python --version))"; \
	if ! $$python -m venv $(1); then \
	    rm -rf $(1); \
	    echo 'The environment could not be made. On Debian and Ubuntu: apt-get install python3-venv' >&2; \
	    exit 1; \
	fi
endef

# What the tests start beside Python.
TEST_PROGRAMS := git chromium curl gcc ps flock setsid setpriv prometheus promtool faketime logrotate nginx haproxy caddy

.PHONY: help setup demo run test test-all lint format parity bench gpu-check gpu-site faults clean

help:
	@echo 'make demo    serve the page with the bundled demo model on http://127.0.0.1:7860'
	@echo 'make run     serve the real model (MODEL=hub id or folder) on all addresses, ports 7860 and 8000'
	@echo 'make setup   make the environment and run nothing, e.g. before ./guardian.sh'
	@echo 'make test    run the tests, a real browser included (ARGS="-k name" for some of them)'
	@echo 'make test-all   the same and what is long: collections of pictures, proxies'
	@echo 'make lint    ruff, mypy, import-linter, shellcheck'
	@echo 'make format  put the code into the form that lint asks for'
	@echo "make parity  compare with ModelScope's own pipeline, live (MODEL=hub id for real weights)"
	@echo "make bench   measure speed, memory and agreement (ARGS=--quick; ARGS=--reference for ModelScope's as well)"
	@echo 'make gpu-check  check precision, speed and faults on a GPU in at most 8 minutes (docs/performance.md)'
	@echo 'make gpu-site   fetch packages into build/gpu-site, for a check on a machine without network'
	@echo 'make faults  bring real faults upon a guarded instance and write the tables (ARGS="--naive", "--soak 30", "--only kill,stop")'
	@echo 'make clean   remove environments and caches'
	@echo
	@echo 'Each makes its Python environment by itself. ARGS="..." is handed on to the command that is run.'

setup: $(RUNTIME)
	@echo 'The environment $(VENV) is ready'

demo: $(RUNTIME)
	$(BIN)/python web_app.py --model demo --host 127.0.0.1 --health-host 127.0.0.1 $(ARGS)

run: $(RUNTIME)
	$(BIN)/python web_app.py $(if $(MODEL),--model $(MODEL)) $(ARGS)

test: $(DEV)
	@tests/system_packages.sh $(TEST_PROGRAMS)
	$(BIN)/python -m pytest -m 'not long' $(ARGS)

test-all: $(DEV)
	@tests/system_packages.sh $(TEST_PROGRAMS)
	$(BIN)/python -m pytest $(ARGS)

lint: $(DEV)
	@tests/system_packages.sh git shellcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -f page/*.pyi # Gradio writes them when the page is imported, and mypy would read them in place of the code
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: $(DEV) $(REFERENCE)
	$(BIN)/python -m lab.parity --reference-python $(REFERENCE_VENV)/bin/python $(if $(MODEL),--model $(MODEL)) $(ARGS)

# ModelScope's environment is built when its side is asked for without naming a Python.
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
	rm -rf $(VENV) $(REFERENCE_VENV) .mypy_cache .pytest_cache .ruff_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.txt constraints.txt
	$(call make_venv,$(VENV))
	@echo 'Installing what the service needs (requirements.txt); torch is most of the download'
	@$(BIN)/python $(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	@echo 'Installing what tests and lint need (requirements-dev.txt)'
	@$(BIN)/python $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# torch, torchvision and torchaudio go first: fairseq builds against what is there.
$(REFERENCE): requirements-modelscope.txt
	$(call make_venv,$(REFERENCE_VENV))
	@echo "Installing ModelScope's own pipeline (requirements-modelscope.txt): about 5 GB, 5 minutes, a C compiler"
	@$(REFERENCE_VENV)/bin/python $(PIP_INSTALL) $$(grep '^torch' requirements-modelscope.txt)
	@$(REFERENCE_VENV)/bin/python $(PIP_INSTALL) -r requirements-modelscope.txt
	@touch $@
