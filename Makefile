# The targets are described by `make help`. Stamps in .venv and .stacks keep work from being repeated.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

TORCH := 2.13.0
MEGATRON_CORE := 0.18.1
MEGATRON_CORE_FOLDER := .stacks/megatron-core-0.18
# The newest patch of every release of ms-swift whose arguments planner/data/releases.yaml knows.
SWIFT_RELEASES := 3.12.6 4.0.4 4.1.3 4.2.3 4.3.2 4.4.2 4.5.3 4.6.0
SWIFT_WHEELS := $(SWIFT_RELEASES:%=.stacks/wheels/ms_swift-%-py3-none-any.whl)
# Releases of megatron-core whose source the rules are held against, beside the two that are installed.
MEGATRON_SOURCES := 0.15.3 0.17.1 0.18.2 0.19.2
MEGATRON_WHEELS := $(MEGATRON_SOURCES:%=.stacks/wheels/megatron-core-%.downloaded)

# Of train-moe. What is given on the command line, NNODES and DRY_RUN too, reaches the scripts. A run
# folder that is there must have been planned with what is given, not with these defaults.
given = $(filter-out undefined default file,$(origin $(1)))
EXPECTED := $(if $(call given,MODEL),--model "$$MODEL") $(if $(call given,GPUS),--gpus "$$GPUS") \
  $(if $(call given,LOAD),--load "$$LOAD") $(if $(call given,SITE),--site "$$SITE")
EXPECTED_NODES := $(if $(call given,NNODES),--nodes "$$NNODES")
MODEL ?= Qwen3-30B-A3B
NODES = $(or $(NNODES),1)
GPUS ?= $(shell echo $$((8 * $(NODES))))
LOAD ?= mcore
RUN ?= runs/$(notdir $(MODEL))-$(GPUS)gpus

PYTEST_FLAGS ?= -q
# Every worker takes tests in a row, so that what a module sets up is mostly set up once.
PYTEST_WORKERS ?= --numprocesses auto --dist worksteal

.PHONY: help
help: ## what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- what commands need ------------------------------------------------------------------------

$(VENV)/core: pyproject.toml
	[[ -x $(BIN)/python ]] || $(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	$(BIN)/python -m compileall -q planner launch convert measure topologies
	touch $@

$(VENV)/dlc: $(VENV)/core
	$(PIP) install --editable '.[dlc]'
	touch $@

$(VENV)/test: $(VENV)/core
	@echo "installing what tests need, about 3 GB"
	$(PIP) install torch==$(TORCH)
	$(PIP) install --editable '.[test]'
	touch $@

$(MEGATRON_CORE_FOLDER)/installed: | $(VENV)/core
	$(PIP) install --no-deps --ignore-requires-python --upgrade \
	  --target $(MEGATRON_CORE_FOLDER) megatron-core==$(MEGATRON_CORE)
	touch $@

.stacks/wheels/ms_swift-%-py3-none-any.whl: | $(VENV)/core
	$(PIP) download --no-deps --dest .stacks/wheels ms-swift==$*

# The newer ones ask for a newer Python; nothing of them is installed.
.stacks/wheels/megatron-core-%.downloaded: | $(VENV)/core
	$(PIP) download --no-deps --only-binary :all: --ignore-requires-python --python-version 3.12 \
	  --dest .stacks/wheels megatron-core==$*
	touch $@

.PHONY: stacks
stacks: $(VENV)/test $(MEGATRON_CORE_FOLDER)/installed $(SWIFT_WHEELS) $(MEGATRON_WHEELS) ## install what tests need: the real stack on CPU, about 3 GB

# -- using it ----------------------------------------------------------------------------------

.PHONY: plan
plan: $(VENV)/core ## set up the planner and print the table of an example
	$(BIN)/plan --gpus 16 --nodes 2 --model Qwen3-30B-A3B

.PHONY: train-moe
train-moe: export RUN := $(RUN)
train-moe: export MODEL := $(MODEL)
train-moe: export GPUS := $(GPUS)
train-moe: export LOAD := $(LOAD)
train-moe: $(VENV)/$(if $(filter dlc,$(BACKEND)),dlc,core) ## plan, or take RUN=folder, and run this node's part, or submit to BACKEND=dlc or hosts: NNODES= MODEL= GPUS= LOAD= MODEL_PATH= DATASET= SITE= HOSTS= DRY_RUN=1 YES=1
	@# Of nodes that plan at once one writes the folder; to the others it exists, and they take it.
	@[[ -e "$$RUN/run.json" ]] || $(BIN)/plan --gpus "$$GPUS" --nodes $(NODES) --model "$$MODEL" \
	  --load "$$LOAD" $${MODEL_PATH:+--model-path "$$MODEL_PATH"} $${DATASET:+--dataset "$$DATASET"} \
	  $${SITE:+--site "$$SITE"} \
	  --output-dir "$$RUN" || { [[ -e "$$RUN/run.json" ]] && echo "another node wrote $$RUN: it is taken"; }
	@if [[ -z "$${BACKEND:-}" ]]; then exec $(BIN)/moe-launch train "$$RUN" $(EXPECTED); \
	  else exec $(BIN)/moe-launch submit "$$RUN" --backend "$$BACKEND" $${HOSTS:+--hosts "$$HOSTS"} \
	  $(EXPECTED) $(EXPECTED_NODES) $${YES:+--yes}; fi

# -- checking it -------------------------------------------------------------------------------

.PHONY: test
test: stacks ## set up what tests need and run them
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST_FLAGS) $(PYTEST_WORKERS)

.PHONY: slow-test
slow-test: stacks ## run the tests that take minutes: many layouts of every model
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS) $(PYTEST_WORKERS)

.PHONY: wheel-test
wheel-test: $(VENV)/test $(SWIFT_WHEELS) ## run the tests against the built wheel instead of the checkout
	rm -rf build dist
	$(PIP) wheel --no-deps --wheel-dir dist .
	$(PIP) install --no-deps --target build/installed dist/*.whl
	PYTHONPATH=$(CURDIR)/build/installed MOE_PLANNER_INSTALLED=$(CURDIR)/build/installed \
	  $(BIN)/pytest -m 'not stack and not slow' $(PYTEST_FLAGS) $(PYTEST_WORKERS)

.PHONY: test-all
test-all: test slow-test wheel-test ## all of them

.PHONY: golden
golden: $(VENV)/test ## write the expected outputs again; review the difference
	WRITE_GOLDEN=1 $(BIN)/python -m pytest -q -k golden
	$(BIN)/python docs/generate.py

# What the benchmarks' pages say follows from what was measured and from what is predicted now. The
# README's figures come last, and the factors that are fitted to published runs before all of it.
PAGES := steptime/published_fit steptime/published steptime/one_rank steptime/two_gpus_report \
  memory/report memory/golden convert/report trust

.PHONY: pages
pages: $(VENV)/test ## write the pages of the benchmarks again; takes some minutes
	for page in $(PAGES); do echo "$$page"; \
	  PYTHONPATH=.:benchmarks/memory:benchmarks/steptime $(BIN)/python -P "benchmarks/$$page.py"; done

.PHONY: lint
lint: $(VENV)/test ## ruff, and the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/test ## mypy, strict
	$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/core ## how long plan and moe-launch render take
	$(BIN)/python benchmarks/plan_time.py
	$(BIN)/python benchmarks/render_time.py
