# make serve   set up what is missing, build dist/clincus.pyz, and serve the dashboard on 127.0.0.1:3000 (PORT=N: another port)
# make test    install what the tests need and run those of the day: all units, and a story for each capability with a real Incus
# make test-loaded  the tests with Incus and the page five times in a row on cores that are busy with something else (TESTS=…: these)
# make nightly the other tests with Incus and the page; it goes on where the last night of the same commit ended
# make build   dist/clincus.pyz alone
# make docs-checked  types the commands of README and docs/ on a machine of their own, and dates the pages if all is well
# make spa     the dashboard from its source in spa/ into spa_dist/
# make lint    ruff, mypy and the floor of Python 3.9; prints the size of each part
# make bench   the measurements of docs/performance.md: one table, no verdicts; it wants an idle machine for twenty minutes,
#              and goes on where the last run of the same build ended; BENCH_FLAGS="start idle" measures these parts anew
# make bench-load  terminals, subscribers, requests and prompts for 15 minutes, and what is left of them
# make lock    requirements-dev.txt from pyproject.toml (UPGRADE=1: with the newest versions)
# make release dist/release/ with the .pyz, the wheel, the sdist and SHA256SUMS: the same bytes from the same commit, which
#              needs a night without a failure (docs/nightly.md)
#
# On Debian and Ubuntu everything that is missing is installed, which needs root; elsewhere the packages must be there.

# Where there is none, the recipe that installs Python finds it there afterwards.
PYTHON ?= $(shell command -v /usr/bin/python3 || command -v python3 || echo /usr/bin/python3)
VENV := .venv
BIN := $(VENV)/bin
PORT ?=
# A server lets in its own user and root: after `sudo make serve`, that is the person who called.
AS_CALLER := $(if $(SUDO_USER),sudo --set-home --user=$(SUDO_USER))
PYTEST_FLAGS ?=
BENCH_FLAGS ?=
# Each worker has an Incus of its own. Four keep two cores busy.
WORKERS ?= 4
# One worker begins with the browser and Incus, the others with what needs neither. Dealt by file, longest first, four
# daemons share two cores for most of the run: 987 s where this takes 774 s, and more waits end in vain.
SCHEDULE := --numprocesses=$(WORKERS) --dist=worksteal
TESTS ?= tests/incus tests/browser
ROUNDS ?= 5

PACK_INPUTS := clincus.py clincus_unpack.py build_zipapp.py LICENSE openapi.json \
  $(shell find clincus_cli clincus_features guest spa_dist wall -type f ! -name '*.pyc' 2>/dev/null)
TEST_PACKAGES := incus-base incus-client dnsmasq-base btrfs-progs mmdebstrap zstd git tmux iproute2 curl chromium busybox zsh fish \
  bubblewrap ubuntu-keyring gcc libc6-dev gh

# Keeps packages from starting their services; `clincus health` knows its text.
HOLD := /usr/sbin/policy-rc.d

# Other engines than Chromium's, for the night.
NIGHT_PACKAGES := firefox-esr webkit2gtk-driver xvfb

# What one of four workers has compiled the others need as well.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: serve build docs docs-checked test test-loaded lock pythons pytest collected checks failures test-packages nightly lint spa spa-test spa-lint spa-check spa-unit bench bench-load release clean packages

serve: dist/clincus.pyz
	$(PYTHON) dist/clincus.pyz setup --yes
	exec $(AS_CALLER) $(PYTHON) dist/clincus.pyz serve $(if $(PORT),--port $(PORT))

build: dist/clincus.pyz

dist/clincus.pyz: $(PACK_INPUTS) | $(VENV)/ready
	$(BIN)/python build_zipapp.py
	@touch $@

# A virtual environment needs a package on Debian: `python3 -m venv` is there and fails without it.
$(VENV)/ready:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory packages PACKAGES='python3 python3-venv'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The same tools on each machine, by their hashes: a new ruff changes nothing by itself.
$(VENV)/tested: pyproject.toml requirements-dev.txt | $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Writes the versions and hashes of what pyproject.toml asks for; UPGRADE=1 takes the newest ones.
lock: | $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra test --generate-hashes --no-emit-index-url \
	  --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) --output-file requirements-dev.txt pyproject.toml

# Installs those of $(PACKAGES) that are missing; without apt or root it says what is missing and goes on.
packages:
	@missing=; for name in $(PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Status}' $$name 2>/dev/null | grep -qx installed || missing="$$missing $$name"; done; \
	[ -z "$$missing" ] || { \
	  echo "installing$$missing"; \
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then echo "please install:$$missing" >&2; exit 0; fi; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { [ -d /run/systemd/system ] || { [ -e $(HOLD) ] && ! grep -qx '# Clincus installs packages' $(HOLD); } || { policy=1; \
	    printf '#!/bin/sh\n# Clincus installs packages\nexit 101\n' >$(HOLD); chmod 755 $(HOLD); }; }; \
	  apt-get update -qq || echo "apt-get update failed; going on with the lists at hand" >&2; \
	  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $$missing >/dev/null; code=$$?; \
	  [ -z "$$policy" ] || rm -f $(HOLD); exit $$code; }

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck guest/*.sh guest/image/*.sh clincus_cli/completion_scripts/*.bash
	@# It takes our bytes.decode for that of Python 2 strings, and then judges nothing at all.
	$(BIN)/vermin --quiet --no-tips --exclude str.decode --exclude 'str.decode(errors)' --target=3.9- --violations clincus.py clincus_cli clincus_features wall build_zipapp.py build_release.py clincus_unpack.py
	@$(BIN)/python -m tests.measures

spa/node_modules/.ready: spa/package-lock.json
	@command -v npm >/dev/null || $(MAKE) --no-print-directory packages PACKAGES='nodejs npm'
	cd spa && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

docs: $(VENV)/tested
	$(BIN)/python -m tests.commands_page

docs-checked: $(VENV)/tested build
	CLINCUS_TEST_PROGRAM=dist/clincus.pyz $(BIN)/python -m tests.pages

spa: spa/node_modules/.ready
	cd spa && npm run build

spa-test: spa-lint spa-check spa-unit

spa-lint: spa/node_modules/.ready
	cd spa && npm run --silent lint

spa-check: spa/node_modules/.ready
	cd spa && npm run --silent check

spa-unit: spa/node_modules/.ready
	cd spa && npm test

# A page takes half the time in the Chromium without windows. Ubuntu has no such package, and the tests do without it.
test-packages:
	@$(MAKE) --no-print-directory packages PACKAGES='$(TEST_PACKAGES)'
	@$(MAKE) --no-print-directory packages PACKAGES=chromium-headless-shell || echo 'going on with the whole Chromium' >&2

# What has to be installed comes first: apt runs once at a time, and one registry is waited for while another one answers.
# The tests of the page's parts run beside those with Incus, which wait half of their time. The checks of the source do,
# too, and give way to both.
test: $(VENV)/ready
	@$(PYTHON) -m tests.machine
	@$(MAKE) --no-print-directory test-packages TEST_PACKAGES='$(TEST_PACKAGES) $(shell command -v npm >/dev/null || echo nodejs npm)'
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target $(VENV)/tested collected spa/node_modules/.ready build pythons VERSIONS=3.9
	@rm -rf dist/steps
	@code=0; $(MAKE) --no-print-directory --jobs=3 --keep-going pytest kept-spa-unit checks || code=1; \
	$(BIN)/python -m tests.second_chance again || code=1; $(MAKE) --no-print-directory failures; exit $$code

# Makes a target and keeps what it says in dist/steps.
kept-%:
	@mkdir -p dist/steps
	@{ $(MAKE) --no-print-directory $* || touch dist/steps/$*.failed; } 2>&1 | tee dist/steps/$*.log
	@[ ! -e dist/steps/$*.failed ]

# Says once more how each kept target ended that failed: of a long run only the end may be at hand.
failures:
	@for failed in $(wildcard dist/steps/*.failed); do \
	  log=$${failed%.failed}; echo "==== make $${log##*/} failed:"; grep -a ' FAIL ' $$log.log; tail -n 40 $$log.log; done

# Pytest rewrites a test file when it first reads it. Later each worker would, all at the same time. A file that cannot
# be read is told by the run itself.
collected: $(VENV)/tested
	@$(BIN)/python -m pytest --collect-only --quiet >/dev/null || :

# The versions of Python that this machine lacks. By day the oldest one and the machine's own do.
pythons: $(VENV)/tested
	@$(BIN)/python -m tests.interpreters $(VERSIONS)

pytest: $(VENV)/tested dist/clincus.pyz
	MAKEFLAGS= CLINCUS_TEST_PROGRAM=dist/clincus.pyz $(BIN)/python -m tests.second_chance first $(SCHEDULE) --costs=dist/costs.txt $(PYTEST_FLAGS)

checks:
	@nice -n 15 $(MAKE) --no-print-directory --keep-going --output-sync=target kept-lint kept-spa-lint kept-spa-check

test-loaded: $(VENV)/tested dist/clincus.pyz
	@$(MAKE) --no-print-directory test-packages
	MAKEFLAGS= CLINCUS_TEST_PROGRAM=dist/clincus.pyz $(BIN)/python tests/loaded.py --rounds=$(ROUNDS) $(SCHEDULE) $(PYTEST_FLAGS) $(TESTS)

nightly: $(VENV)/tested dist/clincus.pyz pythons
	@$(MAKE) --no-print-directory test-packages
	@$(MAKE) --no-print-directory packages PACKAGES='$(NIGHT_PACKAGES)'
	MAKEFLAGS= CLINCUS_TEST_PROGRAM=dist/clincus.pyz $(BIN)/python -m tests.nightly $(if $(RECORD),--record $(RECORD)) \
	  $(SCHEDULE) $(PYTEST_FLAGS)

bench: $(VENV)/tested dist/clincus.pyz
	@$(MAKE) --no-print-directory packages PACKAGES='$(TEST_PACKAGES)'
	CLINCUS_TEST_PROGRAM=dist/clincus.pyz $(BIN)/python -m tests.bench.bench_all --write dist/bench.json $(BENCH_FLAGS)

bench-load: $(VENV)/tested dist/clincus.pyz
	@$(MAKE) --no-print-directory packages PACKAGES='$(TEST_PACKAGES)'
	CLINCUS_TEST_PROGRAM=dist/clincus.pyz $(BIN)/python -m tests.bench.bench_load --write dist/load.json $(BENCH_FLAGS)

release: $(VENV)/tested
	@$(BIN)/python build_release.py

clean:
	rm -rf dist build $(VENV) spa/node_modules *.egg-info
