# make bench: the embedded default grid and its report. make test: the tests. Each makes .venv first, with what it needs.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest --numprocesses auto

.PHONY: bench test test-fast test-long test-kill test-fuzz test-soak coverage
.PHONY: lint ruff imports types spelling docs hooks install develop clean

bench: $(VENV)/installed
	$(RUN) bench.py $(ARGS)

# Tests, in tiers

test-fast: $(VENV)/developing
	$(PYTEST) -m "not slow and not long" $(ARGS)

test: $(VENV)/developing
	$(PYTEST) --durations=30 $(ARGS)

test-long: $(VENV)/developing
	$(PYTEST) -m long $(ARGS)

test-kill: $(VENV)/developing
	$(RUN) -m pytest -m long -k killed_everywhere -rP $(ARGS) tests/engines/test_kill.py

test-fuzz: $(VENV)/developing
	$(PYTEST) -m long $(ARGS) tests/cli/test_fuzz.py tests/data/test_fuzz_data.py

test-soak: $(VENV)/developing
	$(RUN) -m pytest -m long -rP $(ARGS) tests/engines/test_soak.py

coverage: $(VENV)/developing
	$(PYTEST) --cov --cov-report=term-missing --cov-report=html:build/coverage $(ARGS)

# What `make lint` looks at, one after the other; `git commit` does the same where `make hooks` was run

lint: ruff imports types spelling docs

ruff: $(VENV)/developing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

imports: $(VENV)/developing
	$(VENV)/bin/lint-imports --no-logo

types: $(VENV)/developing
	$(RUN) -m mypy

spelling: $(VENV)/developing
	$(VENV)/bin/codespell --check-hidden .ci .github .pre-commit-config.yaml *.* Makefile benchmark docs examples methods tests

# Not --quiet: it would hide the warnings from --strict as well.
docs: $(VENV)/developing
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --site-dir build/site

hooks: $(VENV)/developing
	$(RUN) -m pre_commit install

# What is installed: what the program needs; that, and what working on it needs

install: $(VENV)/installed

develop: $(VENV)/developing

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/developing: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
