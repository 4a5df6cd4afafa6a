# make demo       set up and train a character language model on this Python's standard library
# make test       set up and run linters and all tests
# make test-tfds  set up, with TensorFlow, and test the data sets of tensorflow-datasets
# make bench      set up and run the quick benchmarks, with PyTorch and other libraries beside; tables and pictures
# make sanitize   build the kernel `native` with sanitisers of memory, undefined behaviour and threads; run its tests
# make fuzz       set up and hold the kernel `native` to NumPy on SHAPES=2000 random shapes from SEED=0 on
# make wheel      build a wheel for this machine, with `native`, for every Python from 3.11 on
# make gpu-check  test, tune and benchmark on a GPU in nine minutes, with the JAX of PYTHON, which has to see it
#
# PYTHON=python3.13 (or any other) works in an environment of its own.
# TORCH= does not install PyTorch for the benchmarks, TORCH="torch --index-url ..." takes another build of it.

PYTHON ?= python3
VENV   ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN    := $(VENV)/bin
DEMO   ?= runs/demo
TORCH  ?= torch==2.13.0
SHAPES ?= 2000
SEED   ?= 0
BENCH  := runs/benchmarks/$(shell date +%Y%m%d-%H%M%S)

# What `native` is compiled from: an install compiles it anew when any of these changes.
NATIVE := $(wildcard recurrent_jax/kernels/native/CMakeLists.txt recurrent_jax/kernels/native/src/*)
CHECKED := build/sanitize/librecurrent_jax_native.so

.PHONY: demo test test-tfds bench gpu-check fuzz sanitize wheel lint format clean

demo: $(VENV)/.experiments
	$(BIN)/python -m experiments.char_lm train --workdir $(DEMO) --preset demo
	@echo "It writes more: $(BIN)/python -m experiments.char_lm sample --workdir $(DEMO)"

test: $(VENV)/.test lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-tfds: $(VENV)-tfds/.test
	$(VENV)-tfds/bin/python -m pytest tests/experiments/test_tfds.py

bench: $(VENV)/.benchmarks
	$(BIN)/python -m benchmarks run --suite quick --out $(BENCH).jsonl; ran=$$?; \
	$(BIN)/python -m benchmarks report $(BENCH).jsonl && exit $$ran

# A process for each core shares the GPU, since compiling takes most of the time: nothing is tuned there. A kernel that
# hangs costs its part, not the rest. Warnings are no errors: which packages are there is not ours to say.
gpu-check:
	@$(PYTHON) -c "import jax, pytest, xdist" 2>/dev/null || { echo "gpu-check: $(PYTHON) has to have jax, pytest and \
	pytest-xdist; name one that has: make gpu-check PYTHON=..."; exit 2; }
	@$(PYTHON) -c "import jax; jax.default_backend() == 'cpu' and print('gpu-check: this JAX sees no accelerator: \
	a rehearsal on the CPU, with small shapes')"
	ran=0; \
	XLA_FLAGS=--xla_gpu_autotune_level=0 XLA_PYTHON_CLIENT_PREALLOCATE=false timeout --kill-after=10 170 \
	$(PYTHON) -m pytest tests/test_device.py -k "mosaic_gpu or cudnn" --numprocesses logical \
	-o faulthandler_timeout=90 -o filterwarnings=default || ran=1; \
	$(PYTHON) -m benchmarks run --suite gpu --out $(BENCH).jsonl || ran=1; \
	$(PYTHON) -m benchmarks report $(BENCH).jsonl || ran=1; \
	timeout --kill-after=10 90 $(PYTHON) -m benchmarks hopper --minutes 1.2 --out $(BENCH)-hopper.json || ran=1; \
	exit $$ran

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.kernels.fuzz_native --shapes $(SHAPES) --seed $(SEED)

# A library that is loaded into a program without sanitisers wants theirs to be there before it.
sanitize: $(VENV)/.test
	cmake -S recurrent_jax/kernels/native -B build/sanitize -DSANITIZE=address,undefined -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/sanitize --parallel
	RECURRENT_JAX_NATIVE=$(CHECKED) LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest tests/kernels/test_native.py
	cmake -S recurrent_jax/kernels/native -B build/threads -DSANITIZE=thread -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	cmake --build build/threads --parallel --target threads
	build/threads/threads

wheel: $(VENV)/bin/python
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@echo "Setting up in $(VENV): minutes on a fresh machine, nothing after that."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.experiments: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[experiments]"
	touch $@

# PyTorch is a peer, never a dependency: where it can't be installed its rows say so.
$(VENV)/.benchmarks: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(if $(TORCH),-$(BIN)/python -m pip install --quiet $(TORCH))
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks]"
	touch $@

$(VENV)/.test: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks,experiments,test]"
	touch $@ $(VENV)/.experiments

$(VENV)-tfds/.test: pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(VENV)-tfds
	$(VENV)-tfds/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-tfds/bin/python -m pip install --quiet --editable ".[experiments]" pytest tensorflow-cpu
	touch $@

clean:
	rm -rf build dist .venv .venv-* .pytest_cache .ruff_cache .mypy_cache
