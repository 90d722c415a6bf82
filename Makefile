PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
FUZZED := saelens-cfg.json thresholds rule baseline result
FUZZ_RUNS ?= 2000

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-browser browser check lint types format perf hosts redteam fuzz soak clean

help:  ## Show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: make PYTHON=path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

install: $(STAMP)  ## Create .venv and install saebench in it

demo: $(STAMP)  ## Judge the embedded zoo: a story model and twelve SAEs
	@$(BIN)/python -m tools.zoo.check

test: $(STAMP) lint types  ## Lint, check types, run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: $(STAMP)  ## Run the tests that take minutes
	$(BIN)/pytest -m slow

test-browser: $(STAMP) browser  ## Drive the report's pages in a real browser
	$(BIN)/pytest tests/browser

browser:  # Debian's chromium, where we may install it; without one those tests skip and say so
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium fonts-dejavu-core >/dev/null 2>&1; } || echo "no chromium: the browser tests will skip"

check: test  ## The same: what CI runs

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

perf: $(STAMP)  ## Measure speed and memory against the peers and the machine's limit
	@$(BIN)/python -W ignore -m perf $(PERF)

hosts: $(STAMP)  ## Try every architecture of transformers at every hook; write docs/hosts.md
	@PYTHONPATH=tests $(BIN)/python -W ignore -m hosts $(HOSTS)

redteam: $(STAMP)  ## Judge SAEs that must fail; write docs/redteam.md
	@PYTHONPATH=tests $(BIN)/python -W ignore -m redteam $(REDTEAM)

fuzz: $(STAMP)  ## Give the readers of files 20,000 and more damaged inputs
	$(BIN)/pytest -m slow tests/fuzz -s
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; then for target in $(FUZZED); do \
	  PYTHONPATH=tests:tests/fuzz $(BIN)/python -W ignore tests/fuzz/coverage_guided.py $$target \
	    -runs=$(FUZZ_RUNS) || exit 1; done; \
	else echo "atheris is not installed (pip install atheris): no coverage-guided runs"; fi

soak: $(STAMP)  ## Fifty runs in one process: flat memory, identical numbers
	@$(BIN)/python -W ignore -m perf.soak $(SOAK)

clean:  ## Remove .venv and caches
	rm -rf $(VENV) .venv-perf .pytest_cache .ruff_cache .hypothesis .benchmarks
