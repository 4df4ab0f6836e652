PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

.DEFAULT_GOAL := help
.PHONY: help demo test check docs docs-serve docs-test clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Another interpreter: make test PYTHON=python3.12. More for pytest: make test ARGS='-m slow'."

demo: $(READY) ## Run the demo; needs no data and no network once installed
	@$(BIN)/python examples/00_demo.py

test: check ## Check, then run the tests
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(READY) ## Formatting, lint, types and the import layers
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# Not --quiet: it hides warnings from --strict too, and a broken link would pass.
docs: $(DOCS_READY) ## Build the site into site/; a broken link fails
	@$(MKDOCS) build --strict

docs-serve: $(DOCS_READY) ## Show the site at http://127.0.0.1:8000, built anew when a page changes
	@$(MKDOCS) serve

docs-test: $(DOCS_READY) ## Build the site with two builders and look at it in headless Chromium
	@$(BIN)/python -m pip install -qq --disable-pip-version-check selenium zensical==0.0.73
	@command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -qq chromium chromium-driver; } >/dev/null 2>&1 || echo "make: Chromium could not be installed, its tests are skipped" >&2
	@$(BIN)/python -m pytest -m slow -rs tests/test_site.py

clean: ## Remove caches and results; the environment stays (rm -r .venv for a new one)
	@rm -rf build dist site out runs demo_out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +

# One install command on purpose: torch and torchvision have to be chosen together. SpikingJelly, whose models the tests
# wrap, and NeuroBench, whose counts they compare with ours, come without their dependencies: they ask for CUDA builds of
# torchvision and torchaudio, and neither is imported.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not found; install Python 3.11 or newer, or name one: make test PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old; Python 3.11 or newer is needed, for example: make test PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot create environments; install its venv module (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "make: installing into $(VENV), about a minute the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps spikingjelly neurobench
	@touch $(READY)

$(DOCS_READY): $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $(DOCS_READY)
