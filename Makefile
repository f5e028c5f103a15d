# make demo · make test · make lint · make bench · make gpu · make stress · make test-latest · make clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := superb,pretrain,probe,plot,openvino,onnx,ray,test,dev
DEMO := demo
CORPUS ?= corpus

.PHONY: help demo test lint bench gpu stress test-latest clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One environment for demo, tests and CI. s3prl comes as a source archive with a legacy setup.py: it needs setuptools and wheel first.
$(VENV)/ready: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: $(PYTHON) must be Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

demo: $(VENV)/ready ## embed the clips of tests/data, draw a reconstruction and a map
	@mkdir -p $(DEMO)
	$(BIN)/maeast embed tests/data/audio --force -o $(DEMO)/embeddings.parquet
	$(BIN)/maeast visualize tests/data/audio/long_drums.opus -o $(DEMO)/reconstruction.png
	$(BIN)/maeast map $(DEMO)/embeddings.parquet --labels tests/data/labels.csv -o $(DEMO)/map.png
	@echo "embeddings: $(CURDIR)/$(DEMO)/embeddings.parquet"
	@echo "reconstruction: $(CURDIR)/$(DEMO)/reconstruction.png"
	@echo "map: $(CURDIR)/$(DEMO)/map.png"

# tests/pretrain by itself: torch's DataLoader forks, which a process that engines, Ray or numba left threads in does not survive
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not stress and not gpu"
test: $(VENV)/ready ## the whole suite
	$(PYTEST) tests/pretrain
	$(PYTEST) --ignore tests/pretrain

lint: $(VENV)/ready ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready ## ratios against s3prl and torchaudio, written to docs/benchmarks/ (BENCH=embed: one group)
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py $(BENCH)

gpu: $(VENV)/ready ## with CUDA: its tests, its benchmarks, the next run of configs/queue.txt (CORPUS=folder)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: make gpu needs a CUDA device, and torch sees none"; exit 1; }
	$(BIN)/python -m pytest -q -m gpu
	PYTHONPATH=.:tests $(BIN)/python tests/benchmarks/run.py --device cuda
	$(BIN)/python -m pretrain.queue configs/queue.txt --minutes 9 --data.corpus $(CORPUS)

stress: $(VENV)/ready ## the full form of the stress tests
	$(BIN)/python -m pytest -q -m stress

test-latest: ## the newest torch, a plain install, no torchaudio
	rm -rf .venv-latest && $(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --upgrade . pytest hypothesis
	rm -rf build *.egg-info # else this checkout's commands would be looked up in them
	.venv-latest/bin/python -c 'import importlib.util, torch; assert importlib.util.find_spec("torchaudio") is None; print("torch", torch.__version__)'
	.venv-latest/bin/maeast embed tests/data/audio --force -o .venv-latest/embeddings.parquet
	.venv-latest/bin/python -m pytest -q -m "not stress and not gpu" tests/maeast_upstream

clean: ## everything that was made
	rm -rf $(VENV) .venv-latest $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
