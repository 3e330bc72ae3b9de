# Every target makes .venv itself, with Python's own venv and pip.

SHELL := /bin/sh
EXTRAS := train,timm,fast-eval,medical,medical-io,export,video,openvino,ncnn,serve,parquet,ray,wandb,mlflow,docs,dev
BIN := .venv/bin
# One process per core, four at the most: each takes 2 GB. Whoever has nothing left to do takes tests of another.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
STAMP := .venv/.installed
FIND_PYTHON := for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done
PYTHON ?= $(shell $(FIND_PYTHON))

.PHONY: help demo test test-slow gpu lint format docs clean

help:
	@echo 'make demo       train a small detector on built-in data, evaluate it, draw what it finds'
	@echo 'make test       the tests, without the slow ones'
	@echo 'make test-slow  the slow tests only'
	@echo 'make gpu        tests, proofs and times on a GPU, on one page, in under 9 minutes'
	@echo 'make lint       ruff, mypy, codespell'
	@echo 'make format     let ruff rewrite the files'
	@echo 'make docs       the documentation as a site, in build/site'
	@echo 'make clean      remove .venv and the caches'
	@echo 'PYTHON=python3.12 chooses the Python that .venv is made with'

demo: $(STAMP)
	$(BIN)/python tools/demo.py

test: $(STAMP)
	$(PYTEST) -m 'not slow'

test-slow: $(STAMP)
	$(PYTEST) -m slow

# A trial without a GPU: make gpu GPU='--device cpu --tiny'
gpu: $(STAMP)
	$(BIN)/python bench/first_gpu.py $(GPU)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python tools/docs.py
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt
	@'$(or $(PYTHON),python3)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'detseg needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	set -ex; \
		test -x $(BIN)/pip || '$(PYTHON)' -m venv .venv; \
		$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'; \
		$(BIN)/python -m pip install -c constraints.txt --no-deps cityscapesscripts supervision
	@touch $@
