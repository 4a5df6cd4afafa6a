# make demo       set up and train a character language model on this Python's standard library
# make test       set up and run linters and all tests
# make test-tfds  set up, with TensorFlow, and test the data sets of tensorflow-datasets
# make bench      set up and run the quick benchmarks, with PyTorch and other libraries beside; tables and pictures
# make gpu-check  test and benchmark on a GPU, with the JAX of PYTHON, which has to see it; sets up nothing
#
# PYTHON=python3.13 (or any other) works in an environment of its own.
# TORCH= does not install PyTorch for the benchmarks, TORCH="torch --index-url ..." takes another build of it.

PYTHON ?= python3
VENV   ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN    := $(VENV)/bin
DEMO   ?= runs/demo
TORCH  ?= torch==2.13.0
BENCH  := runs/benchmarks/$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test test-tfds bench gpu-check lint format clean

demo: $(VENV)/.experiments
	$(BIN)/python -m experiments.char_lm train --workdir $(DEMO) --preset demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-tfds: $(VENV)-tfds/.test
	$(VENV)-tfds/bin/python -m pytest tests/experiments/test_tfds.py

bench: $(VENV)/.benchmarks
	$(BIN)/python -m benchmarks run --suite quick --out $(BENCH).jsonl; ran=$$?; \
	$(BIN)/python -m benchmarks report $(BENCH).jsonl && exit $$ran

gpu-check:
	@$(PYTHON) -c "import jax; jax.default_backend() == 'cpu' and print('gpu-check: this JAX sees no accelerator: \
	a rehearsal on the CPU, with small shapes')"
	$(PYTHON) -m pytest tests/test_device.py
	$(PYTHON) -m benchmarks run --suite gpu --out $(BENCH).jsonl; ran=$$?; \
	$(PYTHON) -m benchmarks report $(BENCH).jsonl && exit $$ran

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

# PyTorch is a peer, never a dependency: where it can't be installed its rows say so.
$(VENV)/.benchmarks: pyproject.toml | $(VENV)/bin/python
	$(if $(TORCH),-$(BIN)/python -m pip install --quiet $(TORCH))
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks]"
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks,experiments,test]"
	touch $@ $(VENV)/.experiments

$(VENV)-tfds/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)-tfds
	$(VENV)-tfds/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-tfds/bin/python -m pip install --quiet --editable ".[experiments]" pytest tensorflow-cpu
	touch $@

clean:
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .mypy_cache
