# Two commands matter: `make demo` and `make test`. Both start from nothing but Python 3.11 or newer; `make help` lists all.
#
# Another torch:  make test TORCH="torch==2.13.0"   the light environment: no torchvision, the tests that need it deselected
# Another Python: make test PYTHON=python3.12 VENV=.venv-3.12

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON      := python3
PINNED      := $(shell grep '^torch==' constraints.txt)
TORCH       := $(PINNED)
REPORT      := report.html
PYTEST_ARGS :=

TORCH_NAME := $(shell printf '%s' '$(TORCH)' | tr -cs 'A-Za-z0-9.' '-')

# All that differs between the two environments. With another torch, its pin and those that follow from it are dropped.
# Zennit, which tests compare with, imports torchvision and so comes with it.
ifeq ($(TORCH),$(PINNED))
VENV     := .venv
EXTRA    := torchvision zennit
DROPPED  := ^$$
DESELECT :=
else
VENV     := .venv-$(TORCH_NAME)
EXTRA    :=
DROPPED  := ^(torch|torchvision|triton)==
DESELECT := -m "not torchvision"
endif

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PINS   := $(VENV)/constraints.txt
STAMP  := $(VENV)/.installed-$(TORCH_NAME)
INPUTS := requirements-dev.txt requirements-no-deps.txt constraints.txt pyproject.toml $(wildcard dlbt_*/pyproject.toml)

.PHONY: help install demo test bench bench-long zoo lint docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(STAMP)  ## create the environment; the other targets do it when it is missing or out of date

demo: $(STAMP)  ## explain example models and write report.html
	$(BIN)/dlbt demo --out $(REPORT)

test: $(STAMP)  ## run the test suite
	$(BIN)/python -m pytest $(DESELECT) $(PYTEST_ARGS)

bench: $(STAMP)  ## time the explanations against forward + input gradient
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/peers.py

bench-long: $(STAMP)  ## memory and time of a text of 4,096 tokens against forward + input gradient
	$(BIN)/python benchmarks/long_input.py

zoo: $(STAMP)  ## explain every model of torchvision and every architecture of transformers; over an hour
	$(BIN)/python benchmarks/zoo_torchvision.py --markdown docs/zoo_torchvision.md
	$(BIN)/python benchmarks/zoo_transformers.py --markdown docs/zoo_transformers.md

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --config-file plugins_template/pyproject.toml plugins_template/src

docs: $(STAMP)  ## build the documentation's site into site/, every warning an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove what tools and builds left behind; the environments stay
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis $(REPORT)
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit("dlbt needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	grep -vE '$(DROPPED)' constraints.txt > $(PINS)
	$(PIP) install 'pip>=23.2.1'
	$(PIP) install -c $(PINS) '$(TORCH)' $(EXTRA) -r requirements-dev.txt
	$(PIP) install --no-deps --require-hashes -r requirements-no-deps.txt
	@touch $@
