# make bench: the embedded default grid and its report. make test: the tests. Both make .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: bench test test-long test-kill test-fuzz test-soak lint install clean

bench: $(VENV)/installed
	$(RUN) bench.py $(ARGS)

test: $(VENV)/installed
	$(RUN) -m pytest --numprocesses auto $(ARGS)

test-long: $(VENV)/installed
	$(RUN) -m pytest --numprocesses auto -m long $(ARGS)

test-kill: $(VENV)/installed
	$(RUN) -m pytest -m long -k killed_everywhere -rP $(ARGS) tests/engines/test_kill.py

test-fuzz: $(VENV)/installed
	$(RUN) -m pytest --numprocesses auto -m long $(ARGS) tests/cli/test_fuzz.py tests/data/test_fuzz_data.py

test-soak: $(VENV)/installed
	$(RUN) -m pytest -m long -rP $(ARGS) tests/engines/test_soak.py

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
