# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := superb,hear,pretrain,probe,plot,openvino,onnx,ray,search,sentence-transformers,test,dev
DEMO := demo
# The demo needs only a few packages, in an environment of its own, unless the full environment is there already.
DEMO_VENV := $(if $(wildcard $(VENV)/ready),$(VENV),.venv-demo)
# These releases are installed without their declared dependencies: they require an older Python, and TensorFlow for one class name.
HEAR_VALIDATORS := 2021.0.2 2021.0.6
TASKS ?= tasks
OUT ?= hear

.PHONY: help demo test test-fast coverage stress lint docs dist bench bench-pretrain gpu hear \
	test-latest test-torch28 test-xares test-mteb test-hoplite test-viewers test-tensorflow clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# $(call make_venv,FOLDER) makes a virtual environment, or says in one line what is missing.
define make_venv
@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "error: $(PYTHON) must be Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
$(PYTHON) -m venv $(1)
endef

# The full environment, for tests, linters and CI. s3prl is a source archive with a legacy setup.py, which needs setuptools and wheel.
$(VENV)/ready: setup.cfg constraints.txt
	$(call make_venv,$(VENV))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --no-deps heareval==2021.1.3 # its own pins cannot be resolved any more
	for v in $(HEAR_VALIDATORS); do $(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --target $(VENV)/hearvalidator-$$v hearvalidator==$$v || exit 1; done
	touch $@

.venv-demo/ready: setup.cfg constraints.txt
	@echo "making .venv-demo; torch is most of it, so this takes a few minutes"
	$(call make_venv,.venv-demo)
	.venv-demo/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[plot]"
	touch $@

demo: $(DEMO_VENV)/ready ## embed the clips of tests/data, search for one, reconstruct a clip, draw a map of all
	@mkdir -p $(DEMO)
	$(DEMO_VENV)/bin/maeast embed tests/data/audio --force -o $(DEMO)/embeddings.parquet
	$(DEMO_VENV)/bin/maeast search tests/data/audio/yes-flite_rms_1_0.opus -t $(DEMO)/embeddings.parquet -k 5
	$(DEMO_VENV)/bin/maeast visualize tests/data/audio/long_drums.opus -o $(DEMO)/reconstruction.png
	$(DEMO_VENV)/bin/maeast map $(DEMO)/embeddings.parquet --labels tests/data/labels.csv -o $(DEMO)/map.html
	@echo
	@echo "wrote $(DEMO)/embeddings.parquet: one vector per clip, for pandas, Polars or pyarrow"
	@echo "wrote $(DEMO)/reconstruction.png: a clip, the part of it that the model sees, and what the model fills in"
	@echo "wrote $(DEMO)/map.html: open it in a browser, and click a dot to hear the clip"

# Two processes take the files one by one, slow ones first. A process that dies ends the run, since xdist waits for ever for its
# replacement. The tests that fork have a run of their own: see tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
test: $(VENV)/ready ## run the whole suite, as CI does
	$(PYTEST) -m "forks and not stress and not gpu"
	$(PYTEST) -m "not forks and not stress and not gpu"

test-fast: $(VENV)/ready ## run the tests that take less than a second, without s3prl, Ray and HEAR's tools
	$(PYTEST) -m "not slow and not s3prl and not hear and not stress and not gpu"

coverage: $(VENV)/ready ## run the whole suite, and list the lines that it does not reach
	$(PYTEST) -m "forks and not stress and not gpu" --cov --cov-report=
	$(PYTEST) -m "not forks and not stress and not gpu" --cov --cov-append --cov-report=term-missing:skip-covered

lint: $(VENV)/ready ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# mkdocstrings reads the sources without importing them, so the documentation needs neither torch nor the package itself.
.venv-docs/ready: setup.cfg constraints.txt
	$(call make_venv,.venv-docs)
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt $$(sed -n '/^docs =/,/^[a-z]/s/^    //p' setup.cfg)
	touch $@

docs: .venv-docs/ready ## build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

dist: $(VENV)/ready ## build the source archive and the wheel in dist/, and check them
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	rm -rf build *.egg-info
	$(BIN)/python -m twine check --strict dist/*

bench: $(VENV)/ready ## measure speed against s3prl and torchaudio, written to docs/results/benchmarks/ (BENCH=embed: one group)
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py $(BENCH)

# Each group has a process of its own, so that memory left by one does not count for the next.
PRETRAIN_GROUPS := published ssast-fp32 ssast-bf16 decoders-fp32 decoders-bf16 memory sizes compiled sweep
bench-pretrain: $(VENV)/ready ## measure the training step against the published one and SSAST, written to docs/results/benchmarks/
	for group in $(PRETRAIN_GROUPS); do PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py pretrain-$$group || exit 1; done

gpu: $(VENV)/ready ## with CUDA: run the GPU's tests and benchmarks, 12 minutes, written to docs/results/benchmarks/
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: make gpu needs a CUDA device, and torch finds none"; exit 1; }
	$(BIN)/python tests/benchmarks/gpu.py

hear: $(VENV)/ready ## run HEAR's evaluation kit on the tasks in TASKS (OUT=folder, CHECKPOINT=path)
	$(BIN)/maeast hear --tasks-dir $(TASKS) --out $(OUT) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

stress: $(VENV)/ready ## run the stress tests in their full form (CI runs a small one)
	$(BIN)/python -m pytest -q -m stress --timeout 3600

# What needs s3prl and torchaudio, beside which any torch from 2.11 on runs. s3prl's source archive needs setuptools and wheel.
S3PRL_TESTS := tests/maeast_upstream/test_expert.py tests/maeast_upstream/integrations tests/maeast_upstream/test_run_downstream.py \
	tests/maeast_upstream/test_parity.py

LATEST := .venv-latest
test-latest: ## with the newest torch: embed after a plain install, the core's tests without torchaudio, then s3prl's tests with it
	rm -rf $(LATEST) && $(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --upgrade .
	rm -rf build *.egg-info # from here, Python would take their metadata for the installed package's
	$(LATEST)/bin/maeast embed tests/data/audio --force -o $(LATEST)/embeddings.parquet
	$(LATEST)/bin/python -m pip install --quiet ".[probe,plot,openvino,onnx]" pytest pytest-timeout hypothesis
	rm -rf build *.egg-info
	$(LATEST)/bin/python -c 'import importlib.util, torch; assert importlib.util.find_spec("torchaudio") is None; print("torch", torch.__version__)'
	$(LATEST)/bin/python -m pytest -q -m "not stress and not gpu" tests/maeast_upstream
	$(LATEST)/bin/python -m pip freeze | grep '^torch==' > $(LATEST)/torch.txt # torchaudio must not bring an older one
	$(LATEST)/bin/python -m pip install --quiet --constraint $(LATEST)/torch.txt 'setuptools<82' wheel
	$(LATEST)/bin/python -m pip install --quiet --constraint $(LATEST)/torch.txt ".[superb]"
	rm -rf build *.egg-info
	$(LATEST)/bin/python -c 'import torch, torchaudio; print("torch", torch.__version__, "torchaudio", torchaudio.__version__)'
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest -q -m "not stress and not gpu" $(S3PRL_TESTS)

test-xares: ## run X-ARES's checker and a made-up task of it, in an environment of its own
	rm -rf .venv-xares && $(PYTHON) -m venv .venv-xares
	.venv-xares/bin/python -m pip install --quiet --constraint constraints.txt ".[xares]" pytest pytest-timeout hypothesis
	rm -rf build *.egg-info
	.venv-xares/bin/python -m pytest -q -rP tests/hear_api/test_xares.py

test-mteb: ## run made-up tasks of all of MTEB's audio types, in an environment of its own
	rm -rf .venv-mteb && $(PYTHON) -m venv .venv-mteb
	.venv-mteb/bin/python -m pip install --quiet --constraint constraints.txt ".[mteb]" pytest pytest-timeout hypothesis
	rm -rf build *.egg-info
	HF_HUB_OFFLINE=1 .venv-mteb/bin/python -m pytest -q -rP tests/hear_api/test_mteb.py

test-hoplite: ## convert tables to Perch-Hoplite databases and back, in an environment of its own
	rm -rf .venv-hoplite && $(PYTHON) -m venv .venv-hoplite
	.venv-hoplite/bin/python -m pip install --quiet ".[hoplite]" perch-hoplite==1.0.2 pytest pytest-timeout hypothesis
	rm -rf build *.egg-info
	.venv-hoplite/bin/python -m pytest -q -rP tests/maeast_upstream/integrations/test_hoplite.py

# The two need different releases of pandas.
test-viewers: ## open a table in embedding-atlas and in Spotlight, each in an environment of its own
	for viewer in embedding-atlas==0.26.0 renumics-spotlight==1.8.2; do \
		rm -rf .venv-viewer && $(PYTHON) -m venv .venv-viewer && \
		.venv-viewer/bin/python -m pip install --quiet . $$viewer pytest pytest-timeout hypothesis && rm -rf build *.egg-info && \
		.venv-viewer/bin/python -m pytest -q -rP tests/maeast_upstream/integrations/test_viewers.py || exit 1; \
	done

test-tensorflow: ## run hear-validator with the real TensorFlow, in an environment of its own
	rm -rf .venv-tensorflow && $(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet --constraint constraints.txt . pytest pytest-timeout hypothesis
	.venv-tensorflow/bin/python -m pip install --quiet tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet --no-deps --ignore-requires-python hearvalidator==$(lastword $(HEAR_VALIDATORS))
	rm -rf build *.egg-info
	.venv-tensorflow/bin/python -m pytest -q -rP tests/hear_api/test_tensorflow.py

TORCH28 := .venv-torch28
test-torch28: ## run s3prl's tests with the oldest torch and torchaudio that are supported, 2.8
	rm -rf $(TORCH28) && $(PYTHON) -m venv $(TORCH28)
	$(TORCH28)/bin/python -m pip install --quiet 'setuptools<82' wheel torch==2.8.0 torchaudio==2.8.0
	$(TORCH28)/bin/python -m pip install --quiet --editable ".[superb]" pytest pytest-timeout hypothesis torch==2.8.0 torchaudio==2.8.0
	rm -rf build *.egg-info # from here, Python would take their metadata for the installed package's
	OMP_NUM_THREADS=1 $(TORCH28)/bin/python -m pytest -q -m "not stress and not gpu" $(S3PRL_TESTS)

clean: ## remove everything that was made
	rm -rf $(VENV) .venv-demo .venv-docs .venv-latest .venv-torch28 .venv-xares .venv-mteb .venv-hoplite .venv-viewer .venv-tensorflow $(DEMO) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
