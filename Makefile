# Two commands: `make book` and `make test`. Both install what they need into .venv first; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The name holds a checksum of what is installed: a changed requirements.txt is installed again, a new checkout is not.
STAMP := $(VENV)/installed-$(shell cat requirements.txt pyproject.toml setup.py | cksum | cut -d ' ' -f 1)
# Says that the pages were built strictly, and from which state of what they are made of.
STRICT := _build/built-strictly
SHOWN := book scripts pwl_lite web_static data/benchmarks data/plans data/results data/weights
SOURCES = _config.yml _toc.yml $(shell find $(SHOWN) -type f -not -path '*/vendor/*' -not -name '*.pyc')
CHAPTERS ?= $(wildcard book/*.ipynb)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.DEFAULT_GOAL := help
.PHONY: help install book strict site-check single-page test test-package test-nbval test-chapters lint notebooks lab address results clean distclean

help: ## list the targets
	@echo "Progressive Weight Loading, hands on. Needs Python 3.11 or newer (make PYTHON=python3.12 ... chooses one)."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv with everything pinned (the other targets call this)

$(STAMP): requirements.txt pyproject.toml setup.py
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) was not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version 2>&1) is too old: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing requirements.txt into $(VENV): about two minutes and 2 GB of disk ..."
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/installed-*
	@touch $@

book: $(STAMP) ## build the rendered book into _build/html
	@$(BIN)/python scripts/build_book.py

strict: $(STAMP) ## build every page afresh, warnings are errors, then check links, images and outside requests
	@rm -f $(STRICT)
	@$(BIN)/python scripts/build_book.py --strict
	@$(BIN)/python scripts/check_site.py _build/html
	@touch $(STRICT)

$(STRICT): $(STAMP) $(SOURCES)
	@$(MAKE) --no-print-directory strict

site-check: $(STRICT) ## look at every page in Chromium: accessibility, keyboard, phone, dark colours, requests; takes screenshots
	@$(BIN)/python scripts/check_pages.py _build/html
	@$(BIN)/python -m pytest -q tests/site_views.py

single-page: $(STAMP) ## the whole book as one page to print, _build/singlehtml/book.html, and as a PDF where Chromium is found
	@$(BIN)/python scripts/build_single_page.py

test: test-package test-nbval test-chapters ## all tests: the package, nbval on the chapters, every chapter alone through papermill

test-package: $(STAMP) ## only the tests of the package and of the project's files
	$(BIN)/python -m pytest tests --ignore=tests/test_notebooks.py

test-nbval: $(STAMP) ## only `pytest --nbval book/`: does every cell still give its committed output?
	$(BIN)/python -m pytest --nbval book/

test-chapters: $(STAMP) ## only the form of the chapters, and each one alone through papermill
	$(BIN)/python -m pytest tests/test_notebooks.py

lint: $(STAMP) ## ruff on the package, scripts, tests and notebooks
	$(BIN)/ruff check .

notebooks: $(STAMP) ## execute all chapters (quick profile) and write them back; CHAPTERS=book/03_*.ipynb for some
	$(BIN)/python scripts/run_notebooks.py $(CHAPTERS)

lab: $(STAMP) ## open the chapters in JupyterLab
	$(BIN)/jupyter lab book

address: $(STAMP) ## write the repository's address of pyproject.toml into chapters, _config.yml, README.md, CITATION.cff
	$(BIN)/python scripts/stamp_address.py

results: $(STAMP) ## write the README's table of results from the records
	@$(BIN)/python scripts/stamp_results.py

clean: ## remove what was built; keeps .venv, downloads and data
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove .venv, the downloaded scripts and the demo's networks; data/ stays
	rm -rf $(VENV) web_static/vendor web_static/pairs .cache
