# Each target does what CI does. `make demo` needs python3 (3.11 or newer), git and make; `make services` says what it installs.
PYTHON ?= python3
BIN := .venv/bin
SERVICES := $(BIN)/python -m deployments.services
# Arguments for pytest: make test ARGS="-k broker"
ARGS ?=
# How many test files run at once: most tests wait for processes. A file's tests stay together, since they share what they start, and the
# slow ones, of the rooms that come first, begin first.
JOBS ?= 3

# Importing Prefect takes twice as long without byte code; nothing here speaks to the user's own Prefect, or of us to anybody.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV
unexport PREFECT_API_URL PREFECT_API_KEY PREFECT_API_AUTH_STRING PREFECT_PROFILE PREFECT_PROFILES_PATH
export PREFECT_HOME := $(CURDIR)/.cache/prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

# Seconds for which `make faults` makes faults, and the seed from which it draws them (none: another each time, and told).
SECONDS ?= 1200
SEED ?=

.PHONY: setup demo test lint types imports wheel bench faults flower services services-down
.DELETE_ON_ERROR:

setup: .venv/with-dev

demo: .venv/with-demo
	@$(SERVICES) prefect-seed
	$(if $(filter real,$(DEMO)),$(SERVICES) with --) $(BIN)/python -m examples.summary

test: .venv/with-dev
	CI=true $(SERVICES) with -- $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# A Flower app as a tool, at three nodes of this machine; flwr has an environment of its own.
flower: .venv/with-demo .cache/flower/with-1.42.0
	@$(SERVICES) prefect-seed
	$(BIN)/python -m examples.flower .cache/flower

.cache/flower/with-%:
	$(PYTHON) -m venv --clear .cache/flower
	.cache/flower/bin/python -m pip install --quiet --disable-pip-version-check flwr==$* numpy
	touch $@

bench: .venv/with-dev
	$(SERVICES) with -- $(BIN)/python -m benchmarks

faults: .venv/with-dev
	$(SERVICES) with -- $(BIN)/python -m tests.faults.random --write --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

lint: .venv/with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/with-dev
	$(BIN)/mypy
	$(BIN)/mypy -p deployments.services

imports: .venv/with-dev
	$(BIN)/lint-imports

wheel: .venv/with-dev
	$(BIN)/python .ci/wheel.py

services: .venv/with-dev
	$(SERVICES) up

services-down:
	$(PYTHON) -m deployments.services down

# One stamp for each of pyproject.toml's extras, so that a second make does nothing; dev holds demo.
.venv/with-%: pyproject.toml fdn_worker/pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $(if $(filter dev,$*),.venv/with-demo) $@

.venv/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) .ci/python.py
	$(PYTHON) -m venv .venv
