# Everything sets itself up in .venv: a machine needs Python 3.11 or newer, make and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints-dev.txt
RECIPE := pyproject.toml constraints-dev.txt $(wildcard startup/*)
JOBS ?= 2

.PHONY: demo test docs bench-docs lint clean

demo: $(VENV)/.demo
	$(BIN)/autocache demo --out build/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

# Tables and pictures in README and docs, from the results of the scripts in benchmarks.
bench-docs: $(VENV)/.dev
	$(BIN)/python tools/bench_docs.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what it was installed from, so the second run installs nothing.
$(VENV)/.demo: $(RECIPE) | $(BIN)/python
	@echo "Setting up $(VENV), which takes some minutes the first time."
	$(INSTALL) -e ".[report]"
	touch $@

$(VENV)/.dev: $(RECIPE) | $(BIN)/python
	@echo "Setting up $(VENV), which takes some minutes the first time."
	$(INSTALL) -e ".[dev]"
	# The comparison with MindIE-SD reads its cache classes from the wheel, since installing it wants
	# Ascend's runtime. Where none is published for the Python at hand, the comparison is skipped.
	-$(BIN)/python -m pip download --disable-pip-version-check --quiet -c constraints-dev.txt \
		--no-deps --only-binary :all: --dest $(VENV)/peers mindiesd
	# Reports are looked at in a browser, which npm brings. Where there is no npm, that is skipped.
	-mkdir -p $(VENV)/browser && cp tests/report/package.json $(VENV)/browser && \
		npm install --prefix $(VENV)/browser --no-package-lock --no-audit --no-fund --silent \
		--fetch-retries 1 --fetch-timeout 60000
	touch $@ $(VENV)/.demo
