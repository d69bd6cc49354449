# make demo | test | test-all | lint: each sets up what it needs in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMP := $(VENV)/.installed
DEMO := demo-output

# The tests' clusters are this machine's alone; OpenCV, BLAS and torch must not each take every core.
export RAY_AUTH_MODE ?= disabled
export HANDOCC_DETECTOR ?= $(CURDIR)/$(VENV)/hand_landmarker.task

.PHONY: demo test test-all test-rest lint format clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev,detect]'
	# MediaPipe brings an OpenCV with windows, whose files must be those of the headless one.
	$(PIP) --force-reinstall --no-deps opencv-python-headless
	$(BIN)/handocc fetch-detector
	touch $@

demo: $(STAMP)
	rm -rf $(DEMO)
	$(BIN)/handocc synthesize --output $(DEMO)/shards --count 24 --seed 7 --per-shard 8 --vertices --split demo
	$(BIN)/handocc annotate '$(DEMO)/shards/*.tar' --output $(DEMO)/hands --weights shipped:tiny --meshes tar --vertices
	$(BIN)/handocc report $(DEMO)/hands --count 16
	$(BIN)/handocc evaluate --dataset shards --data '$(DEMO)/shards/*.tar' --predictions $(DEMO)/hands --output $(DEMO)/scores
	$(BIN)/handocc status $(DEMO)/hands
	@echo
	@echo "annotations  $(DEMO)/hands/annotations/*.parquet"
	@echo "meshes       $(DEMO)/hands/meshes/*.tar"
	@echo "ledger       $(DEMO)/hands/ledger/*.parquet"
	@echo "pictures     $(DEMO)/hands/report/gallery-00.png"
	@echo "errors       $(DEMO)/scores/metrics.json"

# Those that start Ray mostly wait for it, or for a moment to kill it, so that two share the cores well.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not ray" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m "ray and not slow and not nodes" --numprocesses 2 --dist loadfile

test-rest: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not nodes" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m "slow and nodes"

test-all: test test-rest

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache *.egg-info
