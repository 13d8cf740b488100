# Thin over the `mlops` command. Settings: PYTHON, MLOPS_HOME, MLOPS_AIRFLOW_PORT, MLOPS_MLFLOW_PORT, MLOPS_SERVING_PORT.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo up down status check lint docs test test-fast lock lock-check resolve clean venv venv-dev

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
FAST := not slow and not e2e and not browser
DEMO := $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO))

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: venv  ## install, start the stack, take every model through the whole chain in Airflow, call the endpoint (FROM=, TO=: days)
	@$(BIN)/mlops demo $(DEMO)

up: venv  ## start the stack; what runs already is left alone
	@$(BIN)/mlops up

down:  ## stop the stack; all data is kept
	@if [ -x $(BIN)/mlops ]; then $(BIN)/mlops down; else echo "nothing is installed here"; fi

status: venv  ## what runs, where, since when
	@$(BIN)/mlops status

check: venv  ## is params.yaml right?
	@$(BIN)/mlops check

lint: venv-dev  ## style, types, direction of imports
	@echo "style (ruff)" && $(BIN)/ruff check --quiet .
	@echo "format (ruff)" && $(BIN)/ruff format --quiet --check .
	@echo "types (mypy)" && $(BIN)/mypy --no-error-summary
	@echo "direction of imports (import-linter)" && { contracts=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$contracts"; exit 1; }; }

docs: venv-dev  ## write docs/params.md, docs/cli.md and docs/metrics.md from the program
	@$(BIN)/python -m include.reference

test: lint  ## lint, and every test, the demo in a fresh clone among them
	@echo "tests (pytest), two files at a time" && $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	@echo "tests (pytest), those that put the service under load, alone" && $(BIN)/python -m pytest -q -m alone

test-fast: venv-dev  ## the inner loop
	@$(BIN)/python -m pytest -q -n 2 -m "$(FAST)"

lock: venv resolve  ## resolve requirements*.in into requirements*.txt, every package pinned with its hash

resolve:
	@$(UV) pip compile $(RESOLVE) requirements.in -o requirements.txt >/dev/null
	@$(UV) pip compile $(RESOLVE) -c requirements.txt requirements-dev.in -o requirements-dev.txt >/dev/null

lock-check: venv-dev  ## are requirements*.txt what requirements*.in resolve to?
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && cp requirements*.txt requirements*.in "$$fresh" && \
	(cd "$$fresh" && $(MAKE) --silent --file "$(CURDIR)/Makefile" UV="$(CURDIR)/$(UV)" resolve) && \
	for lock in requirements.txt requirements-dev.txt; do \
	  grep == "$$lock" > "$$fresh/committed" && grep == "$$fresh/$$lock" | diff -u "$$fresh/committed" - \
	    || { echo "$$lock is not what its .in resolves to: make lock"; exit 1; }; \
	done

clean: down  ## remove the environment (var/, with all data, stays)
	@rm -rf .venv

RESOLVE := --quiet --python-version 3.11 --universal --generate-hashes --no-header --no-annotate --override requirements-overrides.txt

# One environment. It is changed only when a lock file has changed; what the tests need includes what the stack needs.
venv: ; @$(call install,run,requirements.txt)
venv-dev: ; @$(call install,dev,requirements-dev.txt)

define install
set -eu; \
lock=$$(cat requirements.txt requirements-dev.txt pyproject.toml | cksum | tr ' ' '-'); \
case "$$(cat .venv/installed 2>/dev/null || true)" in "$(1) $$lock"|"dev $$lock") exit 0;; esac; \
if [ ! -x $(BIN)/python ]; then \
  command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "there is no $(PYTHON): install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=/path/to/python3.12"; exit 1; }; \
  "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "$$("$(PYTHON)" --version 2>&1) is not supported: 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=/path/to/python3.12"; exit 1; }; \
  echo "making .venv with $$("$(PYTHON)" --version 2>&1)"; \
  rm -rf .venv; "$(PYTHON)" -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: apt install python3-venv)"; exit 1; }; \
fi; \
if [ ! -x $(UV) ]; then \
  awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.txt > .venv/uv.txt; \
  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt; \
fi; \
echo "installing what $(2) pins"; \
rm -f .venv/installed; \
$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(2); \
$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
echo "$(1) $$lock" > .venv/installed
endef
