# run: serve the demo model. test, check: what CI does. lock: renew requirements/ from pyproject.toml.
# Everything is installed into .venv with uv; where uv is missing, it is installed there too, with pip.

PYTHON ?= python3
BIN := .venv/bin
COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock"

# The uv on PATH, else ours. Expanded in recipes only, after .venv/uv is there.
UV = $(shell command -v uv || echo $(BIN)/uv)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python

.DELETE_ON_ERROR:
.PHONY: run test check lock clean

run: .venv/server
	exec $(BIN)/sightline serve

test: .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: .venv/uv
	$(COMPILE) pyproject.toml --extra server --group build --output-file requirements/server.txt
	$(COMPILE) pyproject.toml --extra server --group dev --constraint requirements/server.txt --output-file requirements/dev.txt
	echo uv | $(COMPILE) - --output-file requirements/uv.txt

clean:
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# The files named .venv/server and .venv/dev are stamps: they say which requirements were installed last.
.venv/server .venv/dev: .venv/%: requirements/%.txt pyproject.toml .venv/uv
	@echo "Installing requirements/$*.txt into .venv"
	@$(INSTALL) --require-hashes --requirement requirements/$*.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is not; name another one: make PYTHON=python3.12" >&2; exit 1; }
	@if command -v uv >/dev/null; then \
		$(PYTHON) -m venv --without-pip .venv; \
	else \
		$(PYTHON) -m venv .venv || { echo "No venv could be made; on Debian: apt install python3-venv" >&2; exit 1; }; \
		$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt; \
	fi
	@touch $@
