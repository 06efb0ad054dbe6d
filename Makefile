# make demo   set up .venv, then simulate, reconstruct and report a small molecule
# make test   set up .venv with the test tools, then lint, type-check and test
# make experiments   set up .venv, then repeat the experiments of the papers at their quick size
# make docs   set up .venv with Sphinx, then build the pages of docs/ and the docstrings into out/docs
#
# Needs only Python with venv. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3.11
# Test processes; each uses one core.
WORKERS ?= 2

# Folder of the demonstration, made anew each time.
DEMO ?= out/demo

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test experiments docs clean

demo: $(VENV)/.ready
	rm -rf $(DEMO)
	$(BIN)/cryograd demo -o $(DEMO)

# The tests come last, so that their summary ends the output. Those of an xdist_group share long runs, which
# each process would make for itself if it had some of them.
test: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q -m 'not experiments'

experiments: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m experiments

docs: $(VENV)/.ready-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -E -W --keep-going -b html docs out/docs

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/.ready-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[docs]'
	touch $(VENV)/.ready $@

$(VENV)/.ready-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[test]'
	touch $(VENV)/.ready $@
