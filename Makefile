PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
ORACLES := .venv-oracles
BIN := $(VENV)/bin
PORT ?= $(or $(MLFLOW_PORT),5000)
# A file's tests in one process: they share what takes long.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-faults test-newest test-oracles lint format docs check-docs dist ui clean

demo: $(VENV)/.installed
	$(BIN)/python run.py workloads/synthetic_mlp --width_mult 1,10 --sam true,false

test: $(VENV)/.installed-dev
	KERAS_BACKEND=jax KERNELS=users $(BIN)/python -m pytest -n auto -m "exact and not slow" tests/experiment
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not faults"
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not faults"

test-slow: $(VENV)/.installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m slow
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m slow

# The tracking servers' part knows nothing of backends.
test-faults: $(VENV)/.installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m faults
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m faults tests/experiment/launch/test_kills.py tests/faults

# What the newest keras changes for us. It may fail: what users install is bounded in
# pyproject.toml, which names it once this passes.
test-newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet -r requirements-dev.txt
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --pre keras
	status=0; for backend in jax tensorflow; do \
	KERAS_BACKEND=$$backend $(NEWEST)/bin/python -m pytest $(PARALLEL) -m "not slow and not faults" \
	tests/test_architecture.py tests/library tests/models tests/analysis || status=1; done; exit $$status

# Methods beside those of other packages, which need PyTorch
test-oracles:
	$(PYTHON) -m venv --clear $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet -r requirements-oracles.txt
	for backend in jax tensorflow; do \
	KERAS_BACKEND=$$backend $(ORACLES)/bin/python -m pytest tests/library/test_oracles.py || exit 1; done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Into site/; see it by .venv/bin/python -m http.server -d site, whose search needs a server
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide its warnings

# Every command of the pages, as it is written: an hour on two cores
check-docs: $(VENV)/.installed-dev
	$(BIN)/python tests/check_docs.py

# The package into dist/, and that it installs and trains in a fresh environment
dist: $(VENV)/.installed-dist
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	DIST=dist KERAS_BACKEND=jax $(BIN)/python -m pytest -m slow tests/test_package.py

ui: $(VENV)/.installed
	$(BIN)/mlflow ui --port $(PORT) --backend-store-uri sqlite:///mlflow/mlflow.db

clean:
	rm -rf $(VENV) $(NEWEST) $(ORACLES) build dist *.egg-info .pytest_cache .ruff_cache site

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "samkeras needs Python 3.11 to 3.13; choose one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .  # for examples/, from any folder
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-docs.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.installed-dist: requirements-dist.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -r requirements-dist.txt
	touch $@

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@
