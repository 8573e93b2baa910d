# charlm's jobs. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check faults bench results docs clean

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: .venv/installed  ## make .venv with charlm in it, at the versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[plot,dev]'
	@touch $@
	@echo 'charlm is in .venv; . .venv/bin/activate puts it on your PATH'

demo: setup  ## train two minutes on Python's own documentation, write some, and score it
	$(BIN)/charlm data get python-docs
	$(BIN)/charlm train data/python-docs.txt --name demo --time 110s --force
	$(BIN)/charlm sample demo --length 400 --temperature 0.7 --prime 'The "for" statement'
	@echo
	$(BIN)/charlm eval demo

test: setup  ## run all tests, on all processors
	$(BIN)/python -m pytest -n auto --dist worksteal

check: setup  ## lint, types, tests
	$(BIN)/ruff format --check charlm tests bench docs
	$(BIN)/ruff check charlm tests bench docs
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

faults: setup  ## try the whole fault matrix at full size (RECORD=1: and write docs/reliability.md)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt atheris
	$(BIN)/python -m pytest -n auto --dist worksteal --faults $(if $(RECORD),--faults-record)

bench: setup  ## measure against peers (ONLY=quality|train|decoder|scoring|scale|cuda|start|save for one part)
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(SAVE),--save)

results: setup  ## compare many models on the texts in data/, in docs/results.md (takes hours)
	$(BIN)/python -m bench.table

docs: setup  ## write docs/cli.md again from the commands themselves
	$(BIN)/python docs/generate.py

clean:  ## remove the environment and caches; data and runs stay
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	find . -name __pycache__ -prune -exec rm -rf {} +
