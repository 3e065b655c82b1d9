# `make demo` and `make test` are all a user needs: the first use makes .venv.
# PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More test processes than cores pay: live tests mostly wait for workers.
JOBS ?= auto

.DEFAULT_GOAL := help
.PHONY: help demo test lint coverage check matrix outcomes soak celery-suite bench chaos docs clean

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
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp  ## see the traces and errors of a small shop, with nothing but Python
	@$(BIN)/taskobs demo

test: $(VENV)/dev.stamp  ## run all tests that this machine can run; say what was skipped and why
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n $(JOBS) $(ARGS)
	@$(BIN)/coverage combine -q

lint: $(VENV)/dev.stamp  ## formatting, lint, types, the rules between modules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

.coverage:
	@$(MAKE) test

coverage: .coverage $(VENV)/dev.stamp  ## hold the last `make test` to the coverage threshold
	$(BIN)/coverage report

check: lint coverage  ## everything that CI checks beside the tests

matrix: $(VENV)/dev.stamp  ## run the tests over Pythons and releases of Celery, OpenTelemetry, Sentry
	@$(BIN)/python tools/matrix.py $(ARGS)

outcomes: $(VENV)/dev.stamp  ## run the live tests, and write docs/outcomes.md of what arrived
	@$(BIN)/python -m tools.outcome_table $(ARGS)

soak: $(VENV)/dev.stamp  ## run 50,000 tasks in one process, and see whether its memory grows
	@$(BIN)/python tools/soak.py $(ARGS)

celery-suite: $(VENV)/dev.stamp  ## run Celery's own unit tests without taskobs and with it, and compare
	@$(BIN)/python tools/celery_suite.py $(ARGS)

chaos: $(VENV)/dev.stamp  ## kill children and the relay under load, with the backend gone: what is lost?
	@$(BIN)/python tools/chaos.py $(ARGS)

bench: $(VENV)/dev.stamp  ## compare the cost of taskobs with no observing and with the stock stack
	@$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/dev.stamp  ## write the README's generated parts anew
	$(BIN)/python tools/settings_table.py

clean:  ## take away everything that make made
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache \
	  .grimp_cache build dist *.egg-info taskobs-demo.html
