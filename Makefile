# make demo, make test: each alone, in any order, on a machine that has Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n 2

.PHONY: demo test test-cuda test-gpu lint format docs bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m nbnet demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# CUDA kernels on a machine without a GPU, in an environment of its own: Numba's CUDA target is not for CPU tests.
test-cuda: VENV := .venv-cuda
test-cuda:
	$(MAKE) --no-print-directory VENV=$(VENV) $(VENV)/.cuda-dev
	NUMBA_ENABLE_CUDASIM=1 $(VENV)/bin/python -m pytest $(PYTEST_ARGS) tests/cuda_sim
	$(VENV)/bin/python .ci/ptx.py

test-gpu:
	$(MAKE) --no-print-directory VENV=.venv-cuda .venv-cuda/.cuda-dev
	.venv-cuda/bin/python -m pytest tests/gpu

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.compare $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venv-* docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst build dist .ci-cache .coverage .coverage.*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "nbnet needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One stamp an extra: each is installed once, and again when pyproject.toml changes.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "installing nbnet in $(VENV) ..."
	$(INSTALL) .
	@touch $@

$(VENV)/.%: pyproject.toml | $(BIN)/python
	@echo "installing nbnet[$*] in $(VENV) ..."
	$(INSTALL) '.[$*]'
	@touch $@

.PRECIOUS: $(VENV)/.%
