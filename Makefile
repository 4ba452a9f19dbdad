# Targets for people and for CI. Everything lives in .venv; only `servers` touches the machine, and says so.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEVICES ?= 12
DATA ?= demo-data
SECONDS_EACH ?= 60

.PHONY: help demo test power-loss fuzz conformance lint types bench lock clean setup setup-dev servers
.DEFAULT_GOAL := help

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

demo: setup ## Run the whole demo with a live view (DEVICES=12, DATA=demo-data).
	$(BIN)/tinyfleet demo --devices $(DEVICES) --data-dir $(DATA)

setup: $(VENV)/installed ## Make .venv with what the product needs.

setup-dev: $(VENV)/installed-dev ## Make .venv with what the tests need, too.

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "expected Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock tests/interop/device_rest/requirements.lock $(VENV)/installed
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r tests/interop/device_rest/requirements.lock
	@touch $@

servers: ## Install PostgreSQL, mosquitto and SoftHSM2, which tests start for themselves.
	@.ci/servers

test: setup-dev servers ## Run every test side by side, after those that cover protocol/ and pki/ whole.
	$(BIN)/python -m coverage run -m pytest tests/unit/pki tests/unit/protocol
	$(BIN)/python -m coverage report
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile \
	  --ignore tests/unit/pki --ignore tests/unit/protocol

power-loss: setup-dev ## Cut the power at every flash operation of many updates; minutes.
	@TINYFLEET_POWER_LOSS=all $(BIN)/python -m pytest tests/power_loss --quiet --numprocesses auto --dist worksteal

fuzz: setup-dev ## Fuzz what reads unverified bytes, guided by coverage (SECONDS_EACH=60).
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS_EACH)

conformance: setup-dev ## Run tuf-conformance 2.4 on the device's TUF client (TUF_CONFORMANCE=python of its own venv).
	@[ -n "$(TUF_CONFORMANCE)" ] || { echo "expected TUF_CONFORMANCE=the python of a venv with tuf-conformance 2.4" >&2; exit 2; }
	$(TUF_CONFORMANCE) -m pytest -q -p no:cacheprovider --rootdir / --entrypoint=$(CURDIR)/tests/interop/tuf_client \
	  $$($(TUF_CONFORMANCE) -c 'import tuf_conformance; print(tuf_conformance.__path__[0])')

lint: setup-dev ## Lint, format check, import contracts.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports

types: setup-dev ## Type check.
	$(BIN)/python -m mypy

bench: setup-dev servers ## Run the benchmarks: a table on stdout, rows in build/bench.json.
	$(BIN)/python tests/benchmarks/run.py

lock: ## Write the lock files anew; needs uv.
	uv pip compile --quiet --universal --generate-hashes --custom-compile-command "make lock" \
	  pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --generate-hashes --custom-compile-command "make lock" \
	  pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## Remove what make made.
	rm -rf $(VENV) build dist $(DATA) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
