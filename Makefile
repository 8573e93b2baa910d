# charlm's jobs. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
# pip would compile modules on one processor, which takes as long as installing them
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

unexport PYTHONDONTWRITEBYTECODE  # what is imported stays compiled: tests start many commands

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-distributed lint check browser faults bench results picture lectures docs wheel portable clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 25

setup: .venv/installed  ## create .venv and install charlm with the versions of constraints.txt

.venv/installed: .venv/command
	$(INSTALL) --editable '.[plot,dev]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib charlm || true  # some packages have files that are no modules
	@touch $@
	@echo 'charlm is in .venv; . .venv/bin/activate puts it on your PATH'

.venv/command: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip uninstall --quiet --quiet --yes charlm  # the distribution's name until it became charlm-cli
	$(INSTALL) --editable '.[plot]'
	@touch $@

demo: .venv/command  ## train for two minutes on Python's documentation, then sample and evaluate
	$(BIN)/charlm data get python-docs
	$(BIN)/charlm train data/python-docs.txt --name demo --time 110s --force
	$(BIN)/charlm sample demo --length 400 --temperature 0.7 --prime 'The "for" statement'
	@echo
	$(BIN)/charlm eval demo

test: setup  ## run all tests, in parallel
	$(BIN)/python -m pytest -n auto --dist worksteal

test-distributed: setup  ## test training with 1, 2 and 4 processes, and with a SIGKILL (takes minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal --distributed tests/test_group.py tests/test_distributed.py

lint: setup  ## check formatting, lint and types
	$(BIN)/ruff format --check charlm tests bench docs
	$(BIN)/ruff check charlm tests bench docs
	$(BIN)/mypy

check: test lint  ## test, then lint

browser: setup  ## test the pages in headless Chromium, with axe-core where there is npm
	$(INSTALL) --editable '.[browser]'
	-npm install --silent --no-save --prefix .venv axe-core@4
	$(BIN)/python -m pytest tests/test_browser.py tests/test_page_model.py

faults: setup  ## run the fault matrix at full size (RECORD=1 writes docs/reliability.md)
	-$(INSTALL) atheris
	$(BIN)/python -m pytest -n auto --dist worksteal --faults $(if $(RECORD),--faults-record)

bench: setup  ## measure speed and quality (ONLY=quality|train|decoder|scoring|records|memory|scale|contention|distributed|cuda|start|save for one part)
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(SAVE),--save)

results: setup  ## train models on the texts in data/ and write docs/results.md (takes hours)
	$(BIN)/python -m bench.defaults
	$(BIN)/python -m bench.doubling
	$(BIN)/python -m bench.contest
	$(BIN)/python -m bench.agreement
	$(BIN)/python -m bench.fill
	$(BIN)/python -m bench.table

picture: setup  ## train a small model and draw the session of the README (docs/session.svg)
	$(BIN)/python -m bench.picture

lectures: setup  ## run the commands of docs/lectures.md; write their output and pictures (takes minutes)
	$(BIN)/python -m bench.lectures

docs: setup  ## generate docs/cli.md from the commands
	$(BIN)/python docs/generate.py

wheel: setup  ## build the wheel and try it in an empty environment, outside of this folder
	PYTHON=$(BIN)/python sh tests/smoke_wheel.sh

portable: setup  ## run the tests in other settings: another processor, one CPU, no compiler, ... (takes long)
	$(BIN)/python tests/portable.py

clean:  ## remove .venv and caches; keep data and runs
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	find . -name __pycache__ -prune -exec rm -rf {} +
