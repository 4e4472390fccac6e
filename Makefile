# agentpool's commands; `make` alone prints them.
PYTHON ?= python3
BIN := .venv/bin
# Test processes, each with a database of its own; one that has ended takes from the others. Three on
# two cores: in a third of its time a test waits for something.
BESIDE := -n 3 --dist worksteal
# Where the tests lie that run by themselves: to look everywhere takes 5 s. tests/unit/test_alone.py compares.
ALONE := tests/acceptance tests/browser
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup ray system demo run test test-fast check bench screenshots fmt docs lock clean

help: ## print this menu
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.made: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("agentpool needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

setup: .venv/.made ## make .venv with everything pinned in requirements/dev.txt

.venv/.ray: .venv/.made requirements/ray.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/ray.txt
	touch $@

ray: .venv/.ray ## add Ray to .venv, for the driver of that name (80 MB to fetch)

system: ## install the system packages that some tests need (chromium, bubblewrap, podman, qemu), when this user may
	@sh .ci/system-packages

demo: setup ## start a demo and run 24 TDD cycles on it (ONCE=1: stop at the end; ISOLATION=container or virtual_machine; SCALE=auto)
	$(BIN)/python examples/tdd/demo.py $(if $(ONCE),--once) $(if $(SCALE),--scale $(SCALE))

run: setup ## start an empty installation
	$(BIN)/agentpool up

test: setup ray system ## every test: browser, kill and stress tests too
	$(BIN)/python -m pytest $(BESIDE) -m 'not alone'
	$(BIN)/python -m pytest -m alone $(ALONE)

test-fast: setup ## the tests without browser, kills and stress
	AGENTPOOL_MACHINE_EXAMPLES=10 $(BIN)/python -m pytest $(BESIDE) -m 'not browser and not kill and not slow'

check: setup ## format, lint, types, import contracts, Django's checks, missing migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy agentpool balancing scaling
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

bench: setup ## print the benches there are
	@ls bench/*.py 2>/dev/null || echo "The benches come with the claim engine; the yardsticks are in bench/yardsticks."

screenshots: setup system ## save a picture of every page in var/screenshots (desktop, phone, light, dark)
	AGENTPOOL_PICTURES=1 $(BIN)/python -m pytest tests/browser/test_pictures.py

fmt: setup ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## check that the documents say what the code does
	$(BIN)/python -m pytest tests/unit/test_docs.py

lock: ## resolve the pinned requirements anew (needs uv)
	uv pip compile pyproject.toml --extra server --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/server.txt
	uv pip compile pyproject.toml --extra server --group dev -c requirements/server.txt --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/dev.txt
	uv pip compile pyproject.toml --extra ray -c requirements/dev.txt --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements/ray.txt

clean: ## remove what the commands above made here (not the databases)
	rm -rf .venv var .ruff_cache .mypy_cache .pytest_cache .hypothesis .import_linter_cache
