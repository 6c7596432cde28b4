# Everything runs in .venv, built from requirements.lock on first use. Choose the interpreter with PYTHON=python3.12.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help walkthrough lab lint test quick bench notebooks course grade lock clean

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/installed

# Seconds one notebook cell may take before it counts as hung.
CELL_TIMEOUT ?= 300
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT) --nbval-kernel-startup-timeout=300

# Tests run side by side, each on one thread. A file or notebook stays with one worker, and the order
# is that of conftest.py: long files first.
WORKERS ?= 2
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "gss-lite needs Python 3.11 or newer; '$(PYTHON)' is $$( ($(PYTHON) --version) 2>/dev/null || echo 'not a Python'). Name another: make ... PYTHON=python3.12" >&2; exit 1; }

help:  ## show these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

walkthrough: $(STAMP)  ## run the lessons; pages of all notebooks in build/walkthrough/
	@$(RUN) notebooks/walkthrough.py

lab: $(STAMP)  ## open JupyterLab on the notebooks
	@$(RUN) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

test: $(STAMP)  ## every notebook cell by cell, the controls in a browser, the package
	@$(RUN) -m pytest tests notebooks $(NBVAL) $(SIDE_BY_SIDE)

quick: $(STAMP)  ## the package alone, without what is slow, in about a minute
	@$(RUN) -m pytest tests -m "not slow and not browser" $(SIDE_BY_SIDE)

lint: $(STAMP)  ## ruff: format and rules, nothing is changed
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .

bench: $(STAMP)  ## speed and memory, as ratios to a plain baseline
	@GSS_TEST_GPU=1 $(RUN) -m pytest tests/benchmarks/bench_*.py -s

notebooks: $(STAMP)  ## re-execute the committed notebooks in place
	@$(RUN) notebooks/walkthrough.py --in-place

course: $(STAMP)  ## write the students' assignments to build/course/
	@$(RUN) -m notebooks.assignments.course release

grade: $(STAMP)  ## grade a folder: make grade SUBMISSIONS=folder [SEED=7] [WRITTEN=marks.csv] [OUT=folder]
	@test -n "$(SUBMISSIONS)" || { echo "Name a folder: make grade SUBMISSIONS=folder" >&2; exit 1; }
	@$(RUN) -m notebooks.assignments.course grade "$(SUBMISSIONS)" \
		$(if $(SEED),--seed "$(SEED)") $(if $(WRITTEN),--written "$(WRITTEN)") $(if $(OUT),--out "$(OUT)")

lock:  ## resolve requirements.lock anew from pyproject.toml
	@$(CHECK_PYTHON)
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@build/lock/bin/python -m uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 \
		--extra notebooks --extra test --extra pretrained --extra course --no-annotate --custom-compile-command "make lock" \
		--output-file requirements.lock
	@rm -rf build/lock

clean:  ## remove .venv, build/ and caches; never data/ or runs/
	rm -rf build $(VENV) .pytest_cache .hypothesis .benchmarks *.egg-info
	find gss_lite data_scripts notebooks tests \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# The stamp is touched last, so an interrupted installation is taken up again by the next make.
$(STAMP): requirements.lock pyproject.toml
	@$(CHECK_PYTHON)
	@echo "Installing the locked packages into $(VENV) (about 6 GB with CUDA, some minutes); larger downloads:"
	@$(PYTHON) -m venv $(VENV)
	@set -o pipefail; $(RUN) -m pip install --disable-pip-version-check -r requirements.lock | \
		sed -unE -e 's/^ *(Downloading|Using cached) (.*[0-9] [MG]B\))/  \2/p' -e 's/^Installing collected.*/  unpacking .../p'
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
	@echo "Installed."
