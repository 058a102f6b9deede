# `make demo` and `make test` work on a fresh machine with Python 3.11 and make; VENV=DIR chooses the environment.
VENV ?= .venv
PYTHON ?= python3.11
EXTRAS ?= dev
BIN := $(VENV)/bin
comma := ,
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: help install demo test lint types bases clean

help:
	@echo "make demo   train, evaluate on held-out buildings, print the table, write a video and a plot under runs/"
	@echo "make test   every test"
	@echo "make lint | types | bases | install    (VENV=DIR, EXTRAS=dev,vision,...)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)
	$(BIN)/python scripts/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bases: $(STAMP)
	$(BIN)/python scripts/make_bases.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
