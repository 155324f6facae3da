# make demo | test | test-gpu | lint | site | matrix | help.  Options: PYTHON=python3.12  VENV=.venv  ARGS="--seed 1"
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CONFIG ?= benchmarks/configs/digits_resnet20.yaml
ARGS   ?=

# Installed once; again only when the requirements change.
INSTALLED := $(VENV)/.installed
TESTABLE  := $(VENV)/.installed-test
READABLE  := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu lint site matrix

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## prune the embedded network: train the agent, cut, fine-tune, report (a minute or two)
	$(BIN)/python -m benchmarks.main --config $(CONFIG) $(ARGS)

test: $(TESTABLE)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-gpu: $(TESTABLE)  ## run the tests that need a GPU ; without one they are skipped
	$(BIN)/python -m pytest -m gpu -rs $(ARGS)

lint: $(TESTABLE)  ## check style, docstrings and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(READABLE)  ## build the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

matrix:  ## run the tests under every Python from 3.10 to 3.13 that is installed
	@set -e; for version in 3.10 3.11 3.12 3.13; do \
	    if python$$version -c "" 2>/dev/null; then \
	        echo "== Python $$version"; \
	        $(MAKE) --no-print-directory test PYTHON=python$$version VENV=.venv-$$version; \
	    else echo "== Python $$version is not installed"; fi; \
	done

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { echo "could not create $(VENV); on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(INSTALLED): setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TESTABLE): setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ $(INSTALLED)

$(READABLE): setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[test,docs]"
	@touch $@ $(TESTABLE) $(INSTALLED)
