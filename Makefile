# make demo   trains a small language model and its pruned twins, and compares them (no network beyond the packages)
# make test   every test, lint, format and types
# Both set up .venv from constraints.txt once. PYTHON=python3.12 picks another interpreter (3.11 or later).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
.PHONY: demo test lint types format clean

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14 python; do \
    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

demo: $(VENV)/.all
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./demo.sh

test: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto
	@$(MAKE) --no-print-directory lint types

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache

# Everything pip may need is in the lock, the build backend too: hence no build isolation. A stamp stands only after a complete installation.
$(VENV)/.all: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Limbeck needs Python 3.11 or later; none was found. Try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) from constraints.txt with $(PYTHON) (once; PyTorch is large)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) setuptools
	@$(INSTALL) --no-build-isolation --editable '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.all
	@echo "Adding the development tools to $(VENV)"
	@$(INSTALL) --no-build-isolation --editable '.[all,dev]'
	@touch $@
