# Nothing is needed beforehand but Python >= 3.11, pip and make. PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
# The interpreters of test-all; those that are not there are left out, and it says so.
PYTHON311 ?= python3.11
PYTHON312 ?= python3.12
PYTHON313 ?= python3.13
export HF_HUB_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo demo test test-all lint docs bench bench-overhead bench-duty bench-latency bench-queue \
	bench-replicas bench-decision bench-encoder bench-goodput bench-promises bench-chaos bench-crossing \
	bench-saturated bench-gpu bench-poison bench-hang bench-memory bench-bulk clean

help:
	@echo "make demo         set up, measure the search app one at a time and batched, then serve it"
	@echo "                  (ARGS=--exit ends after the table)"
	@echo "make test         set up and run the tests, coverage of the pure rooms included"
	@echo "make test-all     the tests on each of Python 3.11, 3.12 and 3.13 that is there, and without torch"
	@echo "make lint         ruff, flake8-async, mypy and pyright"
	@echo "make docs         build the documentation into docs/_build/html"
	@echo "make bench        all benchmarks: bench-overhead, -duty, -replicas, -latency, -queue, -decision, -encoder,"
	@echo "                  -goodput, -promises, -chaos, -crossing, -saturated, -gpu, -poison, -hang, -memory, -bulk"

# pip is upgraded first: --group needs 25.1.
$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.setup: $(VENV)/.pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[examples]" --group dev
	@touch $@

$(VENV)/.setup-demo: $(VENV)/.pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[examples]"
	@touch $@

setup: $(VENV)/.setup

setup-demo: $(VENV)/.setup-demo

demo: setup-demo
	$(BIN)/python -m examples.semantic_search.demo $(ARGS)

test: setup
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage report
	$(BIN)/python -m tests.pure_coverage

# A venv for each, without what needs torch: there is no small build of it for each of them.
test-all:
	@for version in 311="$(PYTHON311)" 312="$(PYTHON312)" 313="$(PYTHON313)"; do \
		python=$${version#*=} venv=$(VENV)-$${version%%=*}; \
		if ! command -v "$$python" >/dev/null; then echo "$$python is not there: left out"; continue; fi; \
		echo "== $$("$$python" --version)"; \
		"$$python" -m venv $$venv && \
		$$venv/bin/python -m pip install --quiet --upgrade "pip>=25.1" && \
		$$venv/bin/python -m pip install --quiet --editable ".[quart]" --group test && \
		$$venv/bin/python -m pytest $(ARGS) || exit 1; \
	done

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m flake8 --select ASYNC1,ASYNC2 --extend-ignore ASYNC114,ASYNC124 trio_batcher tests examples docs
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes trio_batcher --ignoreexternal

docs: setup
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: bench-overhead bench-duty bench-replicas bench-latency bench-queue bench-decision bench-encoder bench-goodput \
	bench-promises bench-chaos bench-crossing bench-saturated bench-gpu bench-poison bench-hang bench-memory \
	bench-bulk

bench-overhead: setup
	$(BIN)/python -m tests.bench.overhead $(ARGS)

bench-duty: setup
	$(BIN)/python -m tests.bench.duty $(ARGS)

bench-replicas: setup
	$(BIN)/python -m tests.bench.replicas $(ARGS)

bench-latency: setup
	$(BIN)/python -m tests.bench.lone $(ARGS)

bench-queue: setup
	$(BIN)/python -m tests.bench.queue $(ARGS)

bench-decision: setup
	$(BIN)/python -m tests.bench.decision $(ARGS)

bench-saturated: setup
	$(BIN)/python -m tests.bench.saturated $(ARGS)

bench-poison: setup
	$(BIN)/python -m tests.bench.poison $(ARGS)

bench-hang: setup
	$(BIN)/python -m tests.bench.hang $(ARGS)

bench-memory: setup
	$(BIN)/python -m tests.bench.memory $(ARGS)

bench-gpu: setup
	$(BIN)/python -m tests.bench.gpu $(ARGS)

bench-encoder: setup
	$(BIN)/python -m tests.bench.encoder $(ARGS)

bench-goodput: setup
	$(BIN)/python -m tests.bench.goodput $(ARGS)

bench-promises: setup
	$(BIN)/python -m tests.bench.promises $(ARGS)

bench-chaos: setup
	$(BIN)/python -m tests.bench.chaos $(ARGS)

bench-crossing: setup
	$(BIN)/python -m tests.bench.crossing $(ARGS)

bench-bulk: setup
	$(BIN)/python -m tests.bench.bulk $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-31? .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache docs/_build
