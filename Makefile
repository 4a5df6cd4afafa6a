# make demo       set up and train a character language model on this Python's standard library
# make test       set up and run linters and all tests
# make test-tfds  set up, with TensorFlow, and test the data sets of tensorflow-datasets
# make bench      set up and time `fused` against `scan`
#
# PYTHON=python3.13 (or any other) works in an environment of its own.

PYTHON ?= python3
VENV   ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN    := $(VENV)/bin
DEMO   ?= runs/demo

.PHONY: demo test test-tfds bench lint format clean

demo: $(VENV)/.experiments
	$(BIN)/python -m experiments.char_lm train --workdir $(DEMO) --preset demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-tfds: $(VENV)-tfds/.test
	$(VENV)-tfds/bin/python -m pytest tests/experiments/test_tfds.py

bench: $(VENV)/.experiments
	$(BIN)/python -m benchmarks.fused_against_scan

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.experiments: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[experiments]"
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[experiments,test]"
	touch $@ $(VENV)/.experiments

$(VENV)-tfds/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)-tfds
	$(VENV)-tfds/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-tfds/bin/python -m pip install --quiet --editable ".[experiments]" pytest tensorflow-cpu
	touch $@

clean:
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .mypy_cache
