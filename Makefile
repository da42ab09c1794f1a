# Two commands do all the set-up: `make demo` and `make test`. Python 3.10 or newer and make are all they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCE := pyproject.toml setup.py $(shell find onnxslim passes -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint package reference bench develop clean

# A real trained model comes out smaller and faster, with the figures that prove it.
demo: $(VENV)/installed
	mkdir -p out
	$(BIN)/onnxslim optimize models/fashion_resnet8.onnx -p quant,prune \
	    --data models/fashion_calib.npz --val models/fashion_test.npz --max-drop 0.01 \
	    -o out/fashion_resnet8.slim.onnx --report out/fashion_resnet8.json

# Everything that says whether the code is right; the tests run against the installed package.
test: lint
	rm -f .coverage .coverage.*
	$(BIN)/pytest --cov --cov-report=term

lint: $(VENV)/tested
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The wheel and the sdist are built, and the main job runs from the wheel in a fresh environment outside the repository.
package: $(VENV)/tested
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	tests/package/run_wheel dist

# The reference pages are generated from the code; a test compares them.
reference: $(VENV)/tested
	$(BIN)/python docs/generate_reference.py

# All real models, and the other tools beside ours. Takes long, needs the zoo; no part of CI.
bench: $(VENV)/tested
	$(BIN)/python tests/bench/zoo_table.py

# For work on onnxslim itself: changes are seen without a new install.
develop: $(VENV)/python
	$(BIN)/pip install --quiet --editable ".[test]"

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/python $(SOURCE)
	rm -rf build
	$(BIN)/pip install --quiet .
	touch $@

$(VENV)/tested: $(VENV)/python $(SOURCE)
	rm -rf build
	$(BIN)/pip install --quiet ".[test]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist out *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
