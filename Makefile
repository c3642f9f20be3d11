# From a fresh clone: `make run`, then openapi/curl/*.sh in another terminal; `make test`. Needs Python 3.11 or later, and make.
PYTHON ?= python3

bin := .venv/bin
scripts := .ci/run openapi/curl/*.sh tests/vm/init tests/vm/guest tests/vm/fetch-kernel
pip := $(bin)/python -m pip --disable-pip-version-check
# What the lock is made by; in a virtual environment of its own, so that it is in nobody's way.
locker := .venv-lock/bin
compile = $(locker)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

.PHONY: run install develop test quick test-vm check figures format openapi client-types examples reference man docs dist bench lock clean

# These two and every other setting of docs/reference/settings.md may be given, before `make run` or behind it.
run: export SHRINKD_LISTEN ?= tcp:127.0.0.1:8080
run: export SHRINKD_DATABASE_URL ?= sqlite:///$(CURDIR)/var/shrinkd.db
run: .venv/installed
	@echo "shrinkd simulates a node at http://$(SHRINKD_LISTEN:tcp:%=%), with the documentation at /docs; Ctrl-C ends it."
	@SHRINKD_BACKEND=simulator exec $(bin)/shrinkd serve

# The program alone: .venv/bin/shrinkd, from hashed requirements.
install: .venv/developed

develop: .venv/developed .venv-client/made

test: .venv/developed .venv-client/made
	$(bin)/python -m pytest $(TESTS)

# For every day: all but what takes seconds or the VM, twice as many at once as there are CPUs, for most of them wait.
quick: .venv/developed
	$(bin)/python -m pytest --numprocesses $$((2 * $$(nproc))) --dist worksteal --quiet -m "not v2 and not long" $(TESTS)

# What needs cgroup v2, alone. `make test` runs it too, once the kernel is there.
test-vm: .venv/developed
	tests/vm/fetch-kernel
	$(bin)/python -m pytest -m v2 $(TESTS)

check: .venv/developed
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/lint-imports --no-logo --no-cache
	@if command -v shellcheck >/dev/null; then echo shellcheck $(scripts); shellcheck $(scripts); \
	elif [ "$(SHRINKD_TEST_REQUIRE_ALL)" = 1 ]; then echo "shellcheck is not installed, and SHRINKD_TEST_REQUIRE_ALL=1" >&2; exit 1; \
	else echo "SKIPPED shellcheck: it is not installed"; fi
	@$(bin)/python -m tests.support.code_figures

# Sizes of modules and functions, and the modules that may be two.
figures: .venv/developed
	@$(bin)/python -m tests.support.code_figures

format: .venv/developed
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

openapi: .venv/developed
	$(bin)/shrinkd openapi > openapi/openapi.json
	$(bin)/python -m tools.client_types

# The types of the Python client, from openapi/openapi.json.
client-types: .venv/developed
	$(bin)/python -m tools.client_types

examples: .venv/developed
	$(bin)/python -m tests.support.example_recorder
	$(bin)/shrinkd openapi > openapi/openapi.json

# The pages of the documents that are made from the program itself.
reference: .venv/developed
	$(bin)/python -m tools.reference

man: .venv/developed
	mkdir -p build
	$(bin)/python -m tools.reference --man > build/shrinkd.1

# The manual, into site/. Warnings, such as a link that leads nowhere, are errors.
docs: .venv-docs/made
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs --quiet build --strict

# The wheels of shrinkd and shrinkd-client, into dist/.
dist: .venv/installed
	$(pip) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . packaging/client

bench: .venv/developed
	$(bin)/python bench/run.py

lock: .venv-lock/made
	$(compile) --upgrade pyproject.toml --output-file requirements.lock
	$(compile) --upgrade pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(compile) --upgrade --group build --constraint requirements-dev.lock --output-file requirements-build.lock
	$(compile) --upgrade packaging/client/pyproject.toml --constraint requirements.lock --output-file packaging/client/requirements.lock
	$(compile) --upgrade --group client --output-file requirements-client.lock
	$(compile) --upgrade --group docs --output-file requirements-docs.lock

clean:
	rm -rf .venv .venv-client .venv-docs .venv-lock build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shrinkd needs Python 3.11 or later; say make PYTHON=…")'
	$(PYTHON) -m venv .venv
	touch $@

# Without build isolation: pip would fetch a build backend that no hash names.
.venv/installed: .venv/made requirements.lock requirements-build.lock pyproject.toml
	$(pip) install --quiet --require-hashes -r requirements.lock -r requirements-build.lock
	$(pip) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/developed: .venv/installed requirements-dev.lock
	$(pip) install --quiet --require-hashes -r requirements-dev.lock
	touch $@

# What makes a client from openapi.json, for the test of that: it wants an older typer than shrinkd.
.venv-client/made: requirements-client.lock
	$(PYTHON) -m venv .venv-client
	.venv-client/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-client.lock
	touch $@

# What builds the manual.
.venv-docs/made: requirements-docs.lock
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-docs.lock
	touch $@

.venv-lock/made:
	$(PYTHON) -m venv .venv-lock
	$(locker)/python -m pip --disable-pip-version-check install --quiet uv
	touch $@
