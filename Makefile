# Face3D. Each target does its own set-up; `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TEST_ENV := FACE3D_RUNS=runs/.test
RUN ?= default
GALLERY ?= people
from_here = $(if $(1),$(if $(filter /%,$(1)),$(1),$(CURDIR)/$(1)))# a folder as it is meant where make runs
EXPLORE := $(basename $(notdir $(wildcard notebooks/49_*.ipynb)))
DESK := $(basename $(notdir $(wildcard notebooks/50_*.ipynb)))
PLAN := $(BIN)/python -m face3d_lib.runs.plan
NBVAL := $(BIN)/pytest -p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
	--nbval-sanitize-with tests/nbval_sanitize.cfg
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(NBVAL) -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: figures help env demo test test-unit test-notebooks test-full lab explore desk lint format notebooks results bench coverage liveness gallery bench-desk gpu-kit bench-gpu lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

env: .venv/.ready ## create the environment in .venv from requirements.lock (7 GB, a few minutes)

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is another: install one, or make env PYTHON=/path/to/python3.12"; exit 2; }
	@echo "creating .venv from requirements.lock: about 3 GB to fetch, a few minutes ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar off --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@mkdir -p .venv/etc/jupyter && ln -sf ../../../jupyter_server_config.py .venv/etc/jupyter/ # for `jupyter lab` as well
	@touch $@

demo: env ## the main job: the whole experiment on synthetic faces, into runs/demo
	@$(BIN)/face3d demo

test: env test-unit test-notebooks ## unit tests, then every committed notebook against its stored numbers

test-unit: env
	$(BIN)/pytest -n 2 --dist worksteal tests

test-notebooks: env # in the order of the plan; two at a time with one thread each, if neither reads the other
	@rm -rf runs/.test
	@$(PLAN) waves | while read -r first others; do \
		if [ -z "$$others" ]; then $(TEST_ENV) $(NBVAL) $$first; else $(TEST_ENV) $(SIDE_BY_SIDE) $$first $$others; fi \
			</dev/null || exit 1; done

test-full: env ## the unit tests with the full counts of kills and resumptions (long)
	FACE3D_SLOW=1 $(BIN)/pytest -n 2 --dist worksteal tests

lab: env ## JupyterLab on the project; outputs are kept in runs/, and notebooks/ stays clean
	JUPYTER_CONFIG_PATH="$(CURDIR)" $(BIN)/jupyter lab

explore: env ## a page in the browser: move the threshold of run default and see what it gets wrong (make explore RUN=demo)
	@$(BIN)/face3d run $(EXPLORE) $(RUN)
	$(BIN)/voila "$${FACE3D_RUNS:-runs}/$(RUN)/$(EXPLORE)/$(EXPLORE).ipynb"

desk: env ## a page in the browser: enrol, recognise, forget; GALLERY=people (folder), DATA=faces (pairs to pick), or RUN=demo
ifeq ($(origin RUN),file)
	FACE3D_GALLERY="$(call from_here,$(GALLERY))" FACE3D_DATA="$(call from_here,$(or $(DATA),$(FACE3D_DATA)))" $(BIN)/voila notebooks/desk.py
else
	@$(BIN)/face3d run $(DESK) $(RUN)
	$(BIN)/voila "$${FACE3D_RUNS:-runs}/$(RUN)/$(DESK)/desk.ipynb"
endif

lint: env ## ruff on library, tests and notebooks; mypy on the library
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: env ## format code by ruff and strip the outputs of untagged cells by nbstripout
	$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q . ; $(BIN)/nbstripout --keep-count --keep-id notebooks/*.ipynb

notebooks: env ## run every notebook with its defaults and store its kept outputs (after a change; read the diff)
	@rm -rf runs/default
	@for notebook in $$($(PLAN) order); do \
		echo "$$notebook"; $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace "$$notebook" || exit 1; done
	@$(BIN)/nbstripout --keep-count --keep-id notebooks/*.ipynb

figures: env ## renew the tracked figures and the results page from the runs default and demo, if every face in them is synthetic
	@$(BIN)/face3d figures
	@$(BIN)/python figures/results.py

results: env ## write figures/README.md and the table in README.md from the JSON beside the figures
	$(BIN)/python figures/results.py

bench: env ## measure speed beside the simplest way of each job; tables and plots go to figures/bench
	$(BIN)/python tests/bench/cpu.py

coverage: env ## measure how often intervals hold the truth (about 20 minutes); table and plot go to figures/bench
	$(BIN)/python tests/bench/interval_coverage.py

liveness: env ## measure how often the liveness check errs; SENSORS="'NAME=FOLDER' ..." are folders of real pairs
	$(BIN)/python tests/bench/liveness.py $(SENSORS)

gallery: env ## try galleries of drawn people on folders of raw pairs: make gallery PAIRS="FOLDER ..."; prints JSON
	$(BIN)/python tests/bench/gallery.py $(PAIRS)

bench-desk: env ## measure how soon the page of notebook 50 answers in a browser (needs Chromium); writes figures/recorded/desk.json
	$(BIN)/python tests/bench/desk.py

gpu-kit: env ## wheels for `make bench-gpu` on a bare GPU machine, into build/gpu-kit (34 MiB; take the folder along)
	@$(BIN)/python tests/bench/kit.py

bench-gpu: ## speed on a GPU in under eight minutes, as one table; needs no .venv where build/gpu-kit is
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) tests/bench/gpu.py

lock: ## resolve pyproject.toml again (needs uv); the lock holds versions and hashes, no hosts
	uv pip compile pyproject.toml --extra export --extra search --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --upgrade -o requirements.lock
	sed -i -E "s/python_full_version < '3.14' and //; s/ ; \(sys_platform == 'darwin' or sys_platform == 'linux'\)//" requirements.lock
	sed -i '/^  - pip:/q' environment.yml
	sed -nE "s/^([a-z0-9._-]+==[^ ]+)( ; [^\\\\]+)? \\\\$$/      - \"\1\2\"/p" requirements.lock >> environment.yml
	echo '      - "--editable ."' >> environment.yml

clean: ## delete the environment and all runs
	rm -rf .venv && git clean -fdXq runs
