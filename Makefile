# `make demo` and `make test` are all a user needs: the first use makes .venv.
# PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
# Where PYTHONDONTWRITEBYTECODE is set, each of the processes that tests start would compile anew.
COMPILE := $(BIN)/python -m compileall -q taskobs tests
# Test processes: two for each core, as tests wait for workers, sockets and files.
JOBS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

.DEFAULT_GOAL := help
.PHONY: help setup demo flask-app django-app fastapi-app test test-unit lint lint-style lint-types lint-layers coverage check build \
  matrix outcomes soak worker-soak celery-suite bench scale chaos docs docs-site newcomer clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "make: '$(PYTHON) -m venv' failed: taskobs needs Python 3.10 or later with its venv module"; \
	  echo "      (Debian, Ubuntu: apt-get install python3-venv), or name another: make PYTHON=python3.12"; \
	  exit 1; }

$(VENV)/demo.stamp: pyproject.toml | $(VENV)/bin/python
	@echo "make: installing taskobs and the demo into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	@echo "make: installing taskobs and its tests' tools into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'pip>=25.1'  # the first with --group
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[grpc]' --group dev
	@# Its metadata asks for Celery below 5.7; it works with 5.7 too.
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps celery-batches
	@touch $@ $(VENV)/demo.stamp

# An environment of its own: Sentry's client imports each library that it finds, so those of the
# tests, boto3 for one, would be measured too.
$(BENCH)/bench.stamp: pyproject.toml
	@echo "make: installing taskobs and the benchmark's tools into $(BENCH)"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install -q --disable-pip-version-check 'pip>=25.1'
	@$(BENCH)/bin/python -m pip install -q --disable-pip-version-check -e . --group bench
	@touch $@

setup: $(VENV)/dev.stamp  ## make .venv with everything that tests and checks need

demo: $(VENV)/demo.stamp  ## see the traces and errors of a small shop, with nothing but Python
	@$(BIN)/taskobs demo

flask-app: $(VENV)/demo.stamp  ## run examples/flask_app: a request, its task and their SQL as one trace
	@$(call example,flask)

django-app: $(VENV)/demo.stamp  ## run examples/django_app, the same way
	@$(call example,django)

fastapi-app: $(VENV)/demo.stamp  ## run examples/fastapi_app, the same way
	@$(call example,fastapi)

define example
$(BIN)/pip install -q --disable-pip-version-check -e '.[$(1)]' -r examples/$(1)_app/requirements.txt && \
  $(BIN)/python examples/run.py $(1)_app
endef

# Sentry imports eventlet, and that a resolver of names, 230 modules, in each process that a test
# starts. Workers of eventlet's pool have them all the same.
test test-unit: export EVENTLET_NO_GREENDNS := yes
test: $(VENV)/dev.stamp  ## run all tests that this machine can run; say what was skipped and why
	@rm -f .coverage .coverage.*
	@$(COMPILE)
	@$(BIN)/coverage run -m pytest -n $(JOBS) $(ARGS)
	@$(BIN)/coverage combine -q

# With PYTHONDONTWRITEBYTECODE, each process would rewrite the assertions of all modules anew: more
# than half of the time that it takes to collect the tests.
test-unit: export PYTHONDONTWRITEBYTECODE :=
test-unit: $(VENV)/dev.stamp  ## run the unit tests alone, in under a minute
	@$(COMPILE)
	@$(BIN)/pytest -n $(JOBS) -q tests/unit $(ARGS)

lint: lint-style lint-types lint-layers  ## formatting, lint, types, the rules between modules

lint-style: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lint-types: $(VENV)/dev.stamp
	$(BIN)/mypy
	$(BIN)/pyright

lint-layers: $(VENV)/dev.stamp
	$(BIN)/lint-imports

.coverage:
	@$(MAKE) test

coverage: .coverage $(VENV)/dev.stamp  ## hold the last `make test` to the coverage threshold
	$(BIN)/coverage report

check: lint coverage  ## everything that CI checks beside the tests

build: $(VENV)/dev.stamp  ## make wheel and sdist in dist/, and run the unit tests against that wheel
	@$(BIN)/python tools/distribution.py --jobs $(JOBS)

matrix: $(VENV)/dev.stamp  ## run the tests over Pythons and releases of Celery, OpenTelemetry, Sentry
	@$(BIN)/python tools/matrix.py $(ARGS)

outcomes: $(VENV)/dev.stamp  ## run the live tests, and write docs/outcomes.md of what arrived
	@$(BIN)/python -m tools.outcome_table $(ARGS)

soak: $(VENV)/dev.stamp  ## run 50,000 tasks in one process, and see whether its memory grows
	@$(BIN)/python tools/soak.py $(ARGS)

worker-soak: $(VENV)/dev.stamp  ## run 50,000 tasks in prefork workers, and compare what their processes hold early and late
	@$(BIN)/python tools/worker_soak.py $(ARGS)

celery-suite: $(VENV)/dev.stamp  ## run Celery's own unit tests without taskobs and with it, and compare
	@$(BIN)/python tools/celery_suite.py $(ARGS)

scale: $(BENCH)/bench.stamp  ## measure what a worker sends, and load an OpenTelemetry Collector until it no longer keeps up
	@$(BENCH)/bin/python -m tools.scale $(ARGS)

chaos: $(VENV)/dev.stamp  ## inject faults into a worker, its relay and its backend: what is lost, and is it counted?
	@$(BIN)/python tools/chaos.py $(ARGS)

bench: $(BENCH)/bench.stamp  ## compare the cost of taskobs with no observing and with the stock stack
	@$(BENCH)/bin/python -m bench $(ARGS)

docs: $(VENV)/dev.stamp  ## write the generated parts of the pages anew
	$(BIN)/python -m tools.settings_table
	$(BIN)/python -m tools.cli_reference
	$(BIN)/python -m tools.names_reference
	$(BIN)/python tools/package_graph.py --write

docs-site: $(VENV)/dev.stamp  ## make a site of the pages in build/site, and check all links in it
	@$(BIN)/python tools/docs_site.py

newcomer:  ## follow the tutorial in a clean clone, with git and Python alone, within three minutes
	@$(PYTHON) tools/newcomer.py $(ARGS)

clean:  ## take away everything that make made
	rm -rf $(VENV) $(BENCH) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache \
	  .grimp_cache build dist *.egg-info taskobs-demo.html
