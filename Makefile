# make demo: the main job on a fresh machine.   make test: the tests.   make help: the rest.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= geocollapse-demo
WORKERS ?= 2

# Real data, in one place only: unpacked into .data where the compact shards lie beside the repository. Elsewhere the
# tests that need it take GEOCOLLAPSE_DATA as it is, and say that they are skipped without it.
SHARDS := ../shared/data/unpack.py
DATA := .data
ifneq ($(wildcard $(SHARDS)),)
export GEOCOLLAPSE_DATA := $(abspath $(DATA))
UNPACKED := $(DATA)/.done
endif

.PHONY: demo test lint bench bench-models docs help

demo: $(VENV)/.run  ## install, run the main job on digits, print where report.html is
	$(BIN)/geocollapse demo --out $(OUT)

test: $(VENV)/.test $(UNPACKED)  ## install with the test extras, run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/.test  ## ruff (style and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench $(UNPACKED)  ## speed and memory as ratios against plain code; ONLY=row runs one
	$(BIN)/python benchmarks/run.py --only '$(ONLY)'

bench-models: $(VENV)/.test $(UNPACKED)  ## train the networks that some rows measure, once, about half an hour
	$(BIN)/python benchmarks/models.py

docs: $(VENV)/.docs  ## build the pages into site/
	$(BIN)/mkdocs build --strict

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each stamp is one install; it is made again only when pyproject.toml changes.
$(VENV)/.run: INSTALL := .
$(VENV)/.test: INSTALL := .[test]
$(VENV)/.docs: INSTALL := .[docs]
$(VENV)/.bench: INSTALL := .[bench]
$(VENV)/.run $(VENV)/.test $(VENV)/.docs $(VENV)/.bench: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '$(INSTALL)'
	touch $@

$(DATA)/.done: $(SHARDS) | $(VENV)/.test
	$(BIN)/python $(SHARDS) $(DATA)
	cp -R $(dir $(SHARDS))banking77 $(DATA)/ && chmod -R u+w $(DATA)/banking77
	touch $@
