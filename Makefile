# make help lists what there is
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := superb,hear,pretrain,probe,plot,openvino,onnx,ray,test,dev
DEMO := demo
# without what they declare: TensorFlow, which they ask only for the name of a class, and an older Python
HEAR_VALIDATORS := 2021.0.2 2021.0.6
CORPUS ?= corpus
TASKS ?= tasks
OUT ?= hear

.PHONY: help demo test lint bench bench-pretrain gpu hear stress test-latest test-torch28 test-xares test-mteb test-tensorflow clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One environment for demo, tests and CI. s3prl comes as a source archive with a legacy setup.py: it needs setuptools and wheel first.
$(VENV)/ready: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: $(PYTHON) must be Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --no-deps heareval==2021.1.3 # its own pins cannot be resolved any more
	for v in $(HEAR_VALIDATORS); do $(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --target $(VENV)/hearvalidator-$$v hearvalidator==$$v || exit 1; done
	touch $@

demo: $(VENV)/ready ## embed the clips of tests/data, draw a reconstruction and a map
	@mkdir -p $(DEMO)
	$(BIN)/maeast embed tests/data/audio --force -o $(DEMO)/embeddings.parquet
	$(BIN)/maeast visualize tests/data/audio/long_drums.opus -o $(DEMO)/reconstruction.png
	$(BIN)/maeast map $(DEMO)/embeddings.parquet --labels tests/data/labels.csv -o $(DEMO)/map.png
	@echo "embeddings: $(CURDIR)/$(DEMO)/embeddings.parquet"
	@echo "reconstruction: $(CURDIR)/$(DEMO)/reconstruction.png"
	@echo "map: $(CURDIR)/$(DEMO)/map.png"

# Three runs, because these do not go together in one process: torch's DataLoader forks (tests/pretrain; s3prl's tasks), which a
# process that engines, Ray or numba left threads in does not survive. A worker that dies ends the run: xdist waits for ever if
# it is replaced.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -q
test: $(VENV)/ready ## the whole suite
	$(PYTEST) -m "not stress and not gpu" tests/pretrain
	$(PYTEST) -m "s3prl and not stress and not gpu" --ignore tests/pretrain
	$(PYTEST) -m "not s3prl and not stress and not gpu" --ignore tests/pretrain

lint: $(VENV)/ready ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready ## ratios against s3prl and torchaudio, written to docs/results/benchmarks/ (BENCH=embed: one group)
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py $(BENCH)

# each in a process of its own: what one group leaves in memory is not the next one's
PRETRAIN_GROUPS := published ssast-fp32 ssast-bf16 decoders-fp32 decoders-bf16 memory sizes sweep
bench-pretrain: $(VENV)/ready ## the training step against the published one and SSAST, written to docs/results/benchmarks/
	for group in $(PRETRAIN_GROUPS); do PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py pretrain-$$group || exit 1; done

gpu: $(VENV)/ready ## with CUDA: its tests, its benchmarks, the next run of configs/queue.txt (CORPUS=folder)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: make gpu needs a CUDA device, and torch sees none"; exit 1; }
	$(BIN)/python -m pytest -q -m gpu
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py --device cuda
	$(BIN)/python -m pretrain.queue configs/queue.txt --minutes 9 --data.corpus $(CORPUS)

hear: $(VENV)/ready ## HEAR's evaluation kit over the tasks in TASKS (OUT=folder, CHECKPOINT=path)
	$(BIN)/maeast hear --tasks-dir $(TASKS) --out $(OUT) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

stress: $(VENV)/ready ## the full form of the stress tests
	$(BIN)/python -m pytest -q -m stress --timeout 3600

test-latest: ## the newest torch without torchaudio: a plain install embeds, then the core's tests
	rm -rf .venv-latest && $(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --upgrade .
	rm -rf build *.egg-info # else this checkout's commands would be looked up in them
	.venv-latest/bin/maeast embed tests/data/audio --force -o .venv-latest/embeddings.parquet
	.venv-latest/bin/python -m pip install --quiet ".[probe,plot,openvino,onnx]" pytest pytest-timeout hypothesis
	rm -rf build *.egg-info
	.venv-latest/bin/python -c 'import importlib.util, torch; assert importlib.util.find_spec("torchaudio") is None; print("torch", torch.__version__)'
	.venv-latest/bin/python -m pytest -q -m "not stress and not gpu" tests/maeast_upstream

test-xares: ## X-ARES's checker, and its run on a made-up task, in a venv of its own
	rm -rf .venv-xares && $(PYTHON) -m venv .venv-xares
	.venv-xares/bin/python -m pip install --quiet --constraint constraints.txt ".[xares]" pytest pytest-timeout
	rm -rf build *.egg-info
	.venv-xares/bin/python -m pytest -q -rP tests/hear_api/test_xares.py

test-mteb: ## MTEB's classification on a made-up task, in a venv of its own
	rm -rf .venv-mteb && $(PYTHON) -m venv .venv-mteb
	.venv-mteb/bin/python -m pip install --quiet --constraint constraints.txt ".[mteb]" pytest pytest-timeout
	rm -rf build *.egg-info
	.venv-mteb/bin/python -m pytest -q -rP tests/hear_api/test_mteb.py

test-tensorflow: ## hear-validator beside the real TensorFlow, in a venv of its own
	rm -rf .venv-tensorflow && $(PYTHON) -m venv .venv-tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet --constraint constraints.txt . pytest
	.venv-tensorflow/bin/python -m pip install --quiet tensorflow
	.venv-tensorflow/bin/python -m pip install --quiet --no-deps --ignore-requires-python hearvalidator==$(lastword $(HEAR_VALIDATORS))
	rm -rf build *.egg-info
	.venv-tensorflow/bin/python -m pytest -q -rP tests/hear_api/test_tensorflow.py

TORCH28 := .venv-torch28
test-torch28: ## s3prl with the oldest torch and torchaudio that are supported, 2.8
	rm -rf $(TORCH28) && $(PYTHON) -m venv $(TORCH28)
	$(TORCH28)/bin/python -m pip install --quiet 'setuptools<82' wheel torch==2.8.0 torchaudio==2.8.0
	$(TORCH28)/bin/python -m pip install --quiet --editable ".[superb]" pytest pytest-timeout torch==2.8.0 torchaudio==2.8.0
	rm -rf build *.egg-info # else this checkout's commands would be looked up in them
	OMP_NUM_THREADS=1 $(TORCH28)/bin/python -m pytest -q -m "not stress and not gpu" tests/maeast_upstream/test_expert.py \
		tests/maeast_upstream/integrations tests/maeast_upstream/test_run_downstream.py tests/maeast_upstream/test_parity.py

clean: ## everything that was made
	rm -rf $(VENV) .venv-latest .venv-torch28 .venv-xares .venv-mteb .venv-tensorflow $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
