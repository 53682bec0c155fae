PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= $(or $(MLFLOW_PORT),5000)
# A file's tests in one process: they share what takes long.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-faults lint format docs ui clean

demo: $(VENV)/.installed
	$(BIN)/python run.py workloads/synthetic_mlp --width_mult 1,10 --sam true,false

test: $(VENV)/.installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not faults"
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not faults"

test-slow: $(VENV)/.installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m slow
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m slow

# The tracking servers' part knows nothing of backends.
test-faults: $(VENV)/.installed-dev
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m faults
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m faults tests/experiment/launch/test_kills.py tests/faults

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Into site/; see it by .venv/bin/python -m http.server -d site, whose search needs a server
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

ui: $(VENV)/.installed
	$(BIN)/mlflow ui --port $(PORT) --backend-store-uri sqlite:///mlflow/mlflow.db

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache site

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "samkeras needs Python 3.11 to 3.13; choose one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .  # for examples/, from any folder
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	touch $@
