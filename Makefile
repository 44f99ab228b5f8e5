# make demo [TEXT="…"]    speak, continue and convert with the starter cascade; writes demo-out/
# make test               the tests
# make check              lint, types, tests (CI: .ci/run)
.DEFAULT_GOAL := help
.PHONY: help install demo test lint types check clean

# The first interpreter that is new enough; `make PYTHON=/path/to/python …` chooses another.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
    $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt
export TEXT
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME

help:
	@sed -n 's/^# make/make/p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: Triptych needs Python 3.11 or newer; found $$(python3 --version 2>&1). Say make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: $(PYTHON) cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Triptych into $(VENV) (once; a minute or two)" >&2
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Triptych and its development tools into $(VENV) (once; a minute or two)" >&2
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/installed $@

install: $(VENV)/installed

demo: $(VENV)/installed
	@$(BIN)/triptych demo -o demo-out --force $${TEXT:+--text "$$TEXT"}

test: $(VENV)/installed-dev
	@$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	@$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
