# make demo   train small models: embed real cells, and predict a perturbation screen
#             (DATA=file.h5ad LABELS=cell_type: your own)
# make test   lint, types, documentation links, and the whole test suite
# make test-portable  the numeric tests as other processors would run them: instruction sets of NumPy, torch, oneDNN, MKL,
#             OpenBLAS, numba and the C library turned off, one thread and two (SETTINGS="baseline avx2", FOLDERS="tests/metrics")
# make bench  measure ours beside the reference tools, each in an environment of its own, and write docs/benchmarks.md
#             (about an hour and a half; BENCH="--quick", "--resume", "--device cuda")
# make fuzz   ten thousand damaged inputs to every reader (several hours; CASES=1000: fewer)
# make docs   the documentation as web pages, in build/site
# make package  build wheel and sdist, install the wheel into an empty environment, run every command
#             (PYTHON=python3.13; PINS=newest, pinned or lowest; TORCH=2.13.0)
# Each sets up its own environment in .venv on first use. PYTHON names the interpreter that makes it.

PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test test-portable bench fuzz docs package clean

demo: .venv/installed
	$(BIN)/python examples/demo.py $(if $(DATA),--data "$(DATA)") $(if $(LABELS),--label_column "$(LABELS)")
	$(BIN)/python examples/demo_perturbation.py $(if $(DATA),--data "$(DATA)")

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --quiet
	$(BIN)/pytest -n 2

test-portable: .venv/installed
	$(BIN)/python -m tests.portable $(FOLDERS) $(if $(SETTINGS),--settings $(SETTINGS))

bench: .venv/installed
	$(BIN)/python benchmarks/run_all.py $(BENCH)

fuzz: .venv/installed
	$(if $(CASES),CASES=$(CASES)) $(BIN)/pytest tests/fuzz --hypothesis-profile=fuzz --hypothesis-show-statistics

docs: .venv/installed
	$(BIN)/mkdocs build

package:
	$(PYTHON) packaging/check.py --python $(PYTHON) --pins $(or $(PINS),pinned) $(if $(TORCH),--torch $(TORCH))

clean:
	rm -rf .venv demo

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else "state-hf needs Python 3.11 to 3.13, but $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q torch
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@
