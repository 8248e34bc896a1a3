# What is done with this tree. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help setup run lint test programs bench clean

PYTHON ?= python3
BIN := .venv/bin
SOURCES := fastgw tests bench
# Programs that the tests and the benchmark run, each as command=package.
TEST_PROGRAMS := nginx=nginx wrk=wrk h2load=nghttp2-client hey=hey curl=curl git=git jq=jq
BENCH_PROGRAMS := nginx=nginx wrk=wrk haproxy=haproxy caddy=caddy

# Packages for $(2) that are missing: installed where that is ours to do, else named, and make ends.
define install
if [ -n "$(1)" ]; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(1) >/dev/null; \
  else \
    echo "$(2) needs more than is installed here. On Debian: sudo apt-get install $(1)" >&2; exit 1; \
  fi; \
fi
endef

# The same for programs, as command=package.
define install_programs
missing=; for each in $(1); do \
  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${each%=*}" >/dev/null || missing+=" $${each#*=}"; \
done; \
$(call install,$${missing# },$(2))
endef

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 14

setup: .venv/.installed  ## make .venv with everything: .venv/bin/fastgw

.venv/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "fastgw needs Python 3.11 or later, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.11" % sys.version_info[:2])'
	@missing=; $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing=$$($(PYTHON) -c \
	  'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); $(call install,$$missing,$(PYTHON))
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

run: setup  ## run the gateway in front of a demo service, on port 8080
	@$(BIN)/fastgw demo

lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict fastgw

programs:
	@$(call install_programs,$(TEST_PROGRAMS),make test)

test: lint programs  ## lint, then every test; apt-get installs what they run, when you are root
	$(BIN)/python -m pytest -n 2

bench: setup  ## measure beside nginx, HAProxy, Envoy and Caddy
	@$(call install_programs,$(BENCH_PROGRAMS),make bench)
	$(BIN)/python -m bench

clean:  ## remove what the others made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
