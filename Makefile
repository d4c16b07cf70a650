# make demo | test | quick | lint | format | bench | requirements | docs | clean
# Each target makes what it needs, in .venv, and is quick when that is there already.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TEST   ?=

.PHONY: demo test quick lint format bench requirements docs clean system system-bench

demo: $(VENV)/.runtime
	$(BIN)/synd demo

# Everything that this machine can do; what it cannot is named at the end.
test: system $(VENV)/.dev
	$(BIN)/python tools/run_tests.py $(TEST)

# What is worth a run on each save: no mount, no tools, no crash.
quick: $(VENV)/.dev
	$(BIN)/pytest $(TEST)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

bench: system-bench $(VENV)/.dev
	$(BIN)/python -m benchmarks

requirements: $(VENV)/.dev
	@$(BIN)/pytest --requirements -q --no-header -p no:randomly | grep -v '::\|^$$\|tests collected'

# docs/errors.md, docs/configuration.md and the man page, from the tables in the code.
docs: $(VENV)/.dev
	$(BIN)/python tools/generate_docs.py

# Debian packages that tests or benchmarks use. Only as root, only what is missing; a failure is no failure
# of the build, as tests skip by name.
system:
	@sh tools/system_packages.sh fuse3 libfuse3-3 samtools bcftools tabix gffread git attr rsync

system-bench: system
	@sh tools/system_packages.sh fio rclone aria2

$(BIN)/python:
	@sh tools/make_venv.sh "$(PYTHON)" "$(VENV)"

$(VENV)/.runtime: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@touch $(VENV)/.runtime $@

clean:
	rm -rf $(VENV) .venvs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src daemon tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
