# make run: from nothing to a registered model that tells stories. make test: the fast tests. Both set themselves up.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
# How many test processes; JOBS=0 runs the tests in one process, as plain pytest does.
JOBS ?= logical
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help run test test-all check format docs screenshots story lock lock-image notices clean FORCE

# The programs of an environment have its path in them: one that was copied or moved with the checkout is made again.
MADE_AT := $(shell sed -n '1s,^\#!\(.*\)/bin/python.*,\1,p' $(BIN)/slm 2>/dev/null)
MOVED := $(if $(MADE_AT),$(filter-out $(realpath $(VENV)),$(or $(realpath $(MADE_AT)),gone)))

help:
	@echo "make run       build a model from the bundled stories and print what it tells (no network once installed)"
	@echo "make test      fast tests             make test-all   all tests: real servers, kills, whole runs"
	@echo "make check     ruff, format, mypy     make format     put the code in order"
	@echo "make screenshots   take docs/screenshots/ anew, with the system's Chromium"
	@echo "make lock      pin the newest versions that pyproject.toml allows"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make lock-image, make notices   after it: what the image installs, with hashes; NOTICES.md"
	@echo "make story     record the story at the head of the README again"
	@echo "make clean     remove the environment and caches; artifacts/ stays"

$(VENV)/.installed: requirements.lock pyproject.toml $(if $(MOVED),FORCE)
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found: install Python 3.11, or name another with PYTHON=..." >&2; exit 2; }
	$(if $(MOVED),rm -rf $(VENV))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -r requirements.lock
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-deps --no-build-isolation -e .
	@touch $@

run: $(VENV)/.installed
	@$(BIN)/slm run quick

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

# Fast tests first: they fail in minutes. Slow files are not divided: their servers and pipelines are made once a file.
test-all: test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshots: $(VENV)/.installed
	mkdir -p docs/screenshots
	SLM_SCREENSHOTS=$(CURDIR)/docs/screenshots $(BIN)/python -m pytest tests/e2e/test_browser.py -m slow

lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt setuptools wheel -e ".[dev]"
	{ sed -n '/^#/p' constraints.txt; $(VENV)-lock/bin/python -m pip freeze --all --exclude-editable | grep -viE '^pip==|^torch==' ; grep '^torch==' constraints.txt; } > requirements.lock
	rm -rf $(VENV)-lock

lock-image: $(VENV)/.installed
	$(BIN)/python -m docs.dependencies lock

notices: $(VENV)/.installed
	$(BIN)/python -m docs.dependencies notices

story: $(VENV)/.installed
	$(BIN)/python -m docs.record_story

clean:
	rm -rf $(VENV) $(VENV)-lock .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
