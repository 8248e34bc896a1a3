.PHONY: setup run test lint bench clean
PYTHON ?= python3
BIN := .venv/bin

setup: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	touch $@

run: setup
	$(BIN)/fastgw demo

lint: setup
	$(BIN)/ruff check fastgw tests bench
	$(BIN)/ruff format --check fastgw tests bench
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2

bench: setup
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist *.egg-info
