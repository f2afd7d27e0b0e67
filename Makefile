# Everything runs in the environment .venv, which each target makes when it is missing.
# PYTHON=python3.12 make test     another interpreter (3.11 or newer)
# make test ARGS='-k crash -x'    arguments for pytest

PYTHON ?= python3
ARGS ?=
# Most tests wait for flushes and for other processes: a little more than two cores.
WORKERS ?= 3
RUN := .venv/bin/python
INCUMBENT := agent-coherence==0.15.0

# The name carries the directory: an environment that was copied or moved along
# with the checkout would go on importing the sources at the old place.
PLACE := $(shell pwd -P | cksum | cut -d' ' -f1)
STAMP := .venv/.installed-$(PLACE)
INCUMBENT_STAMP := .venv-incumbent/.installed-$(PLACE)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without bytecode every command of the tests would compile its modules anew: they
# would take twice as long. It goes into .venv, whatever the surroundings say.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/bytecode

.PHONY: help demo test check model mutants crash histories proof posix bench bench-mount reproduce clean
.DEFAULT_GOAL := help

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## Lose an update without the library, keep it with the library; Python, then two shells.
	$(RUN) examples/lost_update.py
	PATH="$(CURDIR)/.venv/bin:$$PATH" bash examples/two_shells.sh

test: check  ## Check, then run all tests.
	$(RUN) -m pytest -n $(WORKERS) $(ARGS)

check: $(STAMP)  ## Lint, layout and types.
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

model: $(STAMP)  ## Check the model of the protocol: TLA+ and Python count the same states, every mutant falls.
	$(RUN) -m formal.check $(ARGS)

mutants: $(STAMP)  ## Break the code on purpose, one line at a time; each break must be caught by its check.
	$(RUN) -m proof.mutants $(ARGS)

crash: $(STAMP)  ## Kill and fail every operation in each of its system calls, unplug it in some; 20 minutes (ARGS='--every 5': less).
	$(RUN) -m proof.sweeps $(ARGS)

histories: $(STAMP)  ## A million random operations at all doors, with kills and foreign edits, judged (ARGS='--operations N').
	$(RUN) -m proof.histories $(ARGS)

proof: $(STAMP)  ## All of it, in one table: guarantee, checks, cases, dead mutants; under half an hour.
	$(RUN) -m proof $(ARGS)

posix: $(STAMP)  ## Run pjdfstest over a mount: make posix PJDFSTEST=/path/to/a/built/checkout (as root).
	$(RUN) -m proof.posix $(PJDFSTEST) $(ARGS)

bench: $(STAMP)  ## Print the benchmark table: ours, plain Python, and the incumbent.
	@test -f $(INCUMBENT_STAMP) || { \
	    rm -rf .venv-incumbent && $(PYTHON) -m venv .venv-incumbent \
	    && .venv-incumbent/bin/python -m pip install --quiet '$(INCUMBENT)' \
	    && touch $(INCUMBENT_STAMP); \
	} || { rm -rf .venv-incumbent; echo "$(INCUMBENT) cannot be installed here; its column stays empty."; }
	$(RUN) -m benchmarks $(ARGS)

bench-mount: $(STAMP)  ## What a mount costs: ours, fusepy, libfuse's examples (ARGS='--c PROGRAM'), to the same natively.
	@$(RUN) -c 'import fuse' 2>/dev/null || $(RUN) -m pip install --quiet --editable '.[fuse]' \
	    || echo "fusepy cannot be installed here; its column stays empty."
	$(RUN) -m benchmarks.mounting $(ARGS)

reproduce: $(STAMP)  ## Run the token-coherence experiment; write benchmarks/results (ARGS=--quick: 2 minutes).
	@$(RUN) -c 'import matplotlib' 2>/dev/null || $(RUN) -m pip install --quiet --editable '.[plots]' \
	    || echo "matplotlib cannot be installed here; there will be no plots."
	$(RUN) -m benchmarks.token_coherence $(ARGS)

clean:  ## Remove the environments and everything that tools left behind.
	rm -rf .venv .venv-incumbent build dist *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	    echo "No $(PYTHON) found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make a virtual environment (no ensurepip). On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(RUN) -m pip install --quiet --editable '.[dev,fuse]'
	@touch $@
