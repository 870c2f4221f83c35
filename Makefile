# make demo | test | test-all | lint | docs | bench; make .venv only installs. PYTHON=python3.12 make .venv chooses the Python.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-all lint format docs bench clean .venv

.venv: .venv/installed

# The stamp comes last, so that an interrupted installation is done again.
.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.10 to 3.13 is needed: run make PYTHON=python3.12 $(MAKECMDGOALS), for example" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv
	@PYTHON=$(BIN)/python sh runfiles/demo.sh

test: .venv
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv
	$(BIN)/python -m pytest

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tables and figures of README.md and docs/, from the kept results.
docs: .venv
	$(BIN)/python runfiles/study.py docs

bench: .venv
	$(BIN)/python bench.py --dataset omniglot --way 20 --shot 1 --query 15 --metabatch 4 --model metadrop
	$(BIN)/python bench.py --dataset omniglot --way 20 --shot 1 --query 15 --metabatch 4 --model maml

clean:
	rm -rf .venv results/demo .pytest_cache .ruff_cache
