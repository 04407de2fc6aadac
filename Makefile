# Everything that a fresh clone needs: python3.11 or newer with venv, and a package index for pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch comes first and by itself: whichever build of it is at hand (CPU or CUDA) satisfies the rest.
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt

export OMP_NUM_THREADS ?= 1
# With byte code switched off every import is compiled anew, two to three times as slow.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types imports format clean
.DEFAULT_GOAL := demo

## demo: set up, diagnose a healthy run and its broken twin, say where the reports are
demo: $(VENV)/.set-up
	$(BIN)/geartrain demo

## test: set up, check style, types and import direction, run every test
test: lint
	$(BIN)/python -m pytest -n 2 -q

## lint: style, types and import direction
lint: $(VENV)/.set-up-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

## format: rewrite the files in the house format
format: $(VENV)/.set-up-tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## clean: remove everything that was set up or written
clean:
	rm -rf $(VENV) build dist geartrain-reports .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geartrain needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.set-up: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) 'pip>=25.1'
	$(PIP) '$(TORCH)'
	$(PIP) --editable '.[all]'
	touch $@

$(VENV)/.set-up-tests: $(VENV)/.set-up
	$(PIP) --group test --group quality
	touch $@
