# Needs Python 3.11 or newer, make and a package index; `make setup` installs the rest into .venv.
#   make demo    a plan for four L40S, then a small model on vLLM's real CPU engine, predicted next to measured
#   make test    lint, types and all tests

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PYTEST_ARGS ?=
BIN := .venv/bin
READY := .venv/ready
export PYTHONUTF8 = 1

.PHONY: setup demo test lint format types bench fuzz audit lock clean

setup: $(READY)

# Made again when a pin or the project's metadata changes.
$(READY): $(wildcard requirements/*.txt) requirements/install.py pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo >&2 \
		"vllm-fit needs Python 3.11 or newer. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) requirements/install.py
	@touch $@

demo: $(READY)
	$(BIN)/vllm-fit fit meta-llama/Llama-3.1-70B-Instruct --gpu L40S --gpus 4 --max-model-len 8192 --concurrency 12
	$(BIN)/vllm-fit validate HuggingFaceTB/SmolLM2-135M-Instruct --device cpu

test: lint types
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadgroup $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.app

fuzz: $(READY)
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),5000) $(BIN)/pytest -q --timeout 0 tests/test_fuzz.py

# pip-audit in an environment of its own, so that it moves no pin here.
audit: $(READY)
	@test -x build/audit/bin/pip-audit || { $(BIN)/python -m venv build/audit && \
		build/audit/bin/pip install --quiet pip-audit; }
	$(BIN)/python tools/audit.py build/audit/bin/pip-audit requirements/*.txt

# Resolves the pins again; `make lock LOCK_ARGS=--upgrade` moves them all.
lock: $(READY)
	@$(BIN)/python -m pip install --quiet uv
	PATH="$(abspath $(BIN)):$$PATH" requirements/lock.sh $(LOCK_ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
