# What the README names. Every target makes its own virtual environment first; the versions are
# those of requirements.lock (`make lock` renews them).

VENV := .venv
BIN  := $(VENV)/bin
# The first Python on the machine that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
CODE := sdpose components pipelines benchmarks tests

# Without compiled files each of the tests' processes compiles sdpose, and pytest all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo ui test test-fast test-random test-alone chaos check format lint types imports lock clean \
	images images-check registry-fight registry-fuzz faults launcher-faults manifests-check same-ap \
	k8s/pytorchjob.yaml docs/training.md

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime  ## synthetic COCO -> prepare, train, evaluate, register, on this machine
	$(BIN)/sdpose synth data/synthetic --train 2000 --val 200 --seed 0
	$(BIN)/python pipelines/submit.py --exp quickstart --yes

ui: $(VENV)/.runtime  ## MLflow on http://127.0.0.1:5000; prints the page of all runs
	$(BIN)/sdpose ui

# Many tests wait for servers and processes: on two cores three are faster, with 2 GB for each.
TEST_PROCESSES ?= 2
PYTEST = $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	--durations 40 --durations-min 5
test: $(VENV)/.dev  ## the tests
	$(PYTEST)

test-fast: $(VENV)/.dev  ## the tests without servers, root, browser and long trainings (3 min)
	$(BIN)/pytest -n 2 --dist worksteal --fast --durations 10

# Each time another order; that of a failure again: make test-random ORDER_SEED=...
ORDER_SEED ?= $(shell date +%s)
test-random: $(VENV)/.dev  ## the tests in a random order, whose seed is printed
	$(PYTEST) --order-seed $(ORDER_SEED)

# FILES: some of them, as FILES='tests/storage tests/tracking/test_tracking.py'
test-alone: $(VENV)/.dev  ## every test file in a process of its own, one after the other (90 min)
	$(BIN)/python tests/run_alone.py $(FILES)

# Each time other moments; those of a failure again: make chaos CHAOS_SEED=...
CHAOS_SEED ?= $(shell date +%s)
chaos: $(VENV)/.dev  ## a run that is killed 100 times, against one that was left alone (6 min)
	CHAOS_SEED=$(CHAOS_SEED) CHAOS_KILLS=100 $(BIN)/pytest -s tests/training/test_chaos.py

registry-fight: $(VENV)/.dev  ## 16 processes, 64 checkpoints, 200 promotions, on a folder and on S3
	SDPOSE_FIGHT=full $(BIN)/pytest -s tests/registry/test_concurrency.py

# Each time other documents; those of a failure again: make registry-fuzz FUZZ_SEED=...
FUZZ_SEED ?= $(shell date +%s)
registry-fuzz: $(VENV)/.dev  ## 100,000 mutations of the registry's documents (45 min)
	FUZZ_CASES=100000 FUZZ_SEED=$(FUZZ_SEED) $(BIN)/pytest -s tests/registry/test_documents_fuzz.py

faults: $(VENV)/.dev  ## every fault and kill -9 at every request of register, promote and pull (65 min)
	SDPOSE_FAULTS=all $(BIN)/pytest -n 2 -q -rP --show-capture=stdout --timeout 5400 tests/registry/faults

launcher-faults: $(VENV)/.dev  ## every fault at every request of the launcher's life (40 min)
	SDPOSE_LAUNCHER_FAULTS=all $(BIN)/pytest -q -n 2 tests/cluster/test_launcher_faults.py

check: format lint types imports test  ## format, lint, types, import contracts, tests

format: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)

lint: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

lock: $(VENV)/.dev  ## renew requirements.lock within the bounds of pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate \
		--no-header --extra dev pyproject.toml --output-file requirements.lock

# REGISTRY: a prefix, as registry.example.org/team/. TAG: instead of the commit. BUILD_FLAGS: more for
# `docker build`, as --build-arg BASE_IMAGE=...
COMMIT := $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
TAG ?= $(COMMIT)
images:  ## the container images, tagged with the git commit (needs docker)
	@command -v docker > /dev/null || { echo "error: \`make images\` needs docker, which is not on" \
		"this machine; on Debian without an image registry, as root: make images-check"; exit 2; }
	for target in pipeline mlflow trainer; do \
		DOCKER_BUILDKIT=1 docker build --file images/Dockerfile --target $$target $(BUILD_FLAGS) \
			--build-arg GIT_COMMIT=$(COMMIT) --tag $(REGISTRY)sdpose-$$target:$(TAG) . || exit; \
	done

images-check:  ## builds the images on a bare Debian machine and runs them as a cluster would (root)
	images/build_without_registry.sh

k8s/pytorchjob.yaml: $(VENV)/.runtime k8s/cluster.yaml  ## the example job, rendered anew
	{ echo '# Ready for `kubectl apply --server-side -f`, once cluster.yaml names your image. Made by:'; \
	  echo '# make $@'; \
	  $(BIN)/python -m components.launcher render --exp sdpose_s_v1 --cluster k8s/cluster.yaml; \
	} > $@.tmp && mv $@.tmp $@

docs/training.md: $(VENV)/.runtime  ## its list of keys, from the schema anew
	{ sed '/^<!-- keys/q' $@; $(BIN)/sdpose config keys; } > $@.tmp && mv $@.tmp $@

# In an environment of its own: 290 MB, and it pins half of what we use to other versions.
manifests-check: $(VENV)/bin/python  ## checkov over the manifests and the Dockerfile
	$(VENV)/bin/python -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/pip install --quiet checkov==3.3.30
	k8s/checkov.sh $(VENV)/checkov/bin/checkov

same-ap: $(VENV)/.runtime  ## trains with both data pipelines over 3 seeds and compares AP (15 min)
	$(BIN)/python benchmarks/same_ap.py

clean:  ## remove the virtual environment (results and data stay)
	rm -rf $(VENV)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; none of python3," \
		"python3.13, python3.12, python3.11 is. Name one: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make virtual environments;" \
		"on Debian or Ubuntu: apt-get install python3-venv"; exit 2; }

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml requirements.lock
	$(BIN)/pip install --quiet --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@
