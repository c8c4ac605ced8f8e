# One entry for people and for CI: `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
EXTRAS := lab,gateway,shared,otel,procedural,dev
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup demo services upstream test quick bench lint docs

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv with everything, at the versions in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: setup ## Run the whole loop on the embedded models and write a report
	$(BIN)/azeotrope demo

services: ## Start throw-away PostgreSQL and Redis for the tests (scripts/services.sh stop ends them)
	scripts/services.sh start

upstream: ## Start a llama.cpp server with a small model for the tests (scripts/upstream.sh stop ends it)
	scripts/upstream.sh start

SERVICES := for file in build/services.env build/upstream.env; do if [ -f $$file ]; then . $$file; fi; done;

test: setup ## Run every test
	$(SERVICES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

quick: setup ## Run the tests that take less than about ten seconds each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m 'not slow'

bench: setup ## Run the benchmarks
	@for file in benchmarks/*.py; do echo "$$file"; $(BIN)/python $$file || exit 1; done

lint: setup ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: setup ## Generate docs/methods and docs/cli.md from the code, and tables from the archived results
	$(BIN)/python scripts/make_docs.py
	$(BIN)/python scripts/fill_tables.py
