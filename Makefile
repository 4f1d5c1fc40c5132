# Prerequisites: python3 with venv, git, make. Everything else is installed into .venv from a hashed lock.
PYTHON ?= python3
# A machine that forbids bytecode files would compile 250 packages anew at every start: ten seconds a command.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
RUN := $(VENV)/bin/stripe-platform
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo ui bench test test-log test-users test-ui test-faults test-volume test-peers peers lint lint-style lint-types lint-floors lint-sql lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(READY): requirements/lock.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "python3-venv is missing; install it: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' || { echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(VENV)/bin/uv pip sync --quiet --python $(VENV) --require-hashes requirements/lock.txt requirements/uv.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV) --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(READY)  ## the environment in .venv

demo: $(READY)  ## servers, 28 days of payments through every layer, a table at the end
	$(RUN) demo

ui: $(READY)  ## the Dagster webserver and daemon on what the demo made
	$(RUN) ui

lint: $(READY)  ## style, types, floors, SQL: side by side
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint-types lint-sql lint-style lint-floors

lint-style:
	$(VENV)/bin/ruff check .

lint-types:
	$(VENV)/bin/mypy

lint-floors:
	$(VENV)/bin/lint-imports

lint-sql:
	$(VENV)/bin/sqlfluff lint dbt_project/models dbt_project/macros

test: lint  ## lint gates, every test, the pipeline as users run it
	$(VENV)/bin/python -m pytest -m "not log and not faults and not volume and not ui and not users and not peers" -n 2 --dist loadfile --durations 12

test-log: $(READY)  ## the change log case by case: types, keys, schemas, kills, retention, both warehouses
	$(VENV)/bin/python -m pytest -m "log and not volume" -n 2 --dist loadfile

test-users: $(READY)  ## what users do after the first demo: again, by dg, with a file of their own
	$(VENV)/bin/python -m pytest -m users -n 2 --dist loadfile

test-ui: $(READY)  ## webserver and daemon in a headless browser: clicks, backfill, sensor
	$(VENV)/bin/python -m pytest -m ui

test-faults: $(READY)  ## kills, disks, races
	$(VENV)/bin/python -m pytest -m faults

test-volume: $(READY)  ## the long counts
	$(VENV)/bin/python -m pytest -m volume

PEERS := .platform/peers

peers: $(PEERS)/.ready  ## the Debezium engine and a Kafka broker in .platform/peers, for bench and tests

$(PEERS)/.ready: requirements/peers.txt | $(READY)
	$(VENV)/bin/uv venv --quiet --clear --python $(VENV)/bin/python $(PEERS)
	$(VENV)/bin/uv pip sync --quiet --python $(PEERS) --require-hashes requirements/peers.txt
	@touch $@

test-peers: $(READY) $(PEERS)/.ready  ## the change log beside Debezium: one history, two readers, one state
	$(VENV)/bin/python -m pytest -m peers

bench: $(READY)  ## ours beside its peers, on this machine
	$(RUN) bench oltp

lock:  ## resolve requirements/lock.txt anew from pyproject.toml
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/uv.in -o requirements/uv.txt
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev pyproject.toml -o requirements/lock.txt
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/peers.in -o requirements/peers.txt

clean:  ## stop the servers, remove .venv and the data folder
	-$(VENV)/bin/python -c 'from stripe_platform.embedded import servers; from stripe_platform.settings import data_folder; servers.remove(data_folder())'
	rm -rf $(VENV) .platform
