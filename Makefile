# Everything from nothing but python3 >= 3.11: the environment is made on first use and reused afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2
# Memory in huge pages: a third less time on a CPU (seisvel_jax/huge_pages.py). Elsewhere than on Linux it says nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test test-all lint typecheck format golden clean help

help:
	@echo "make demo      simulate, train, predict, score and draw (about 7 minutes on 2 cores)"
	@echo "make test      the test suite (under 12 minutes on 2 cores)"
	@echo "make test-all  the test suite with the slow tests"
	@echo "make lint      ruff and mypy;  make format: ruff's formatter"
	@echo "make golden    renew the golden numbers; review the difference it prints, then commit it"

$(VENV)/.core: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "seisvel_jax needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": run make PYTHON=/path/to/python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/python -m seisvel_jax.demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow"

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: $(VENV)/.dev
	SEISVEL_RENEW_GOLDEN=1 $(BIN)/python -m pytest -n 0 tests -k golden
	git --no-pager diff --stat -- tests/golden
	git --no-pager diff -- tests/golden

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
