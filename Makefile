# Two commands for users: `make demo` and `make test`. Both set up .venv first. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?=
WORK ?= runs/demo
DATA ?=
# Pytest is stopped after so many seconds, so that `make test` ends within an hour even when something hangs.
TEST_SECONDS ?= 3300
CLUSTER_SECONDS ?= 3000
# Which of tests/cluster; "cluster and not nightly" are those that `make test` leaves out.
CLUSTER_TESTS ?= not nightly
BIN := .venv/bin

# Everything that is built or cached stays in this checkout: two copies never meet.
export SEED_DIST_CACHE := $(CURDIR)/.venv/cache
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.venv/torch_extensions

SCRIPTS := .ci/run tools/setup_venv.sh tools/install_slurm.sh slurm/common.sh slurm/preflight.sh $(wildcard slurm/*.sbatch)

.PHONY: help demo test test-cluster check ops format clean

help:
	@echo "make demo              the whole pipeline on drawn scenes; report in runs/demo/report.html"
	@echo "make demo DATA=folder  the same on your own images and captions (WORK=folder: where to)"
	@echo "make test              lint, types, scripts, tests"
	@echo "make test-cluster      jobs on a virtual SLURM cluster: needs root and tools/install_slurm.sh"
	@echo "make check             lint, types, scripts only"
	@echo "make format            rewrite the sources in the common format"
	@echo "make ops               compile DeepSpeed's CPU optimizer now; demo and test do it when needed"
	@echo "make clean             remove caches; .venv and runs stay"

demo: ops
	@$(BIN)/python -m seed_dist.demo --work "$(WORK)" $(if $(DATA),--data "$(DATA)")

test: check ops
	@echo "== pytest"
	@timeout --foreground --signal=INT --kill-after=30 $(TEST_SECONDS) $(BIN)/python -m pytest -q -m "not cluster and not nightly"

test-cluster: ops
	@echo "== pytest tests/cluster"
	@timeout --foreground --signal=INT --kill-after=30 $(CLUSTER_SECONDS) $(BIN)/python -m pytest -q -m "$(CLUSTER_TESTS)" --durations=0 --durations-min=10 tests/cluster

check: .venv/.installed
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "error: the files above differ from the common format; run: make format" >&2; exit 1; }
	@echo "== mypy (about a minute the first time, seconds after that)"
	@$(BIN)/mypy
	@echo "== shellcheck"
	@for script in $(SCRIPTS); do bash -n "$$script" || exit 1; done
	@$(BIN)/shellcheck -x $(SCRIPTS)

format: .venv/.installed
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format .

ops: .venv/.installed
	@$(BIN)/python -m seed_dist.dist.build_ops

.venv/.installed: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" tools/setup_venv.sh

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
	@echo "kept: .venv and runs (remove them by hand)"
