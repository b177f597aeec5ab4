# The whole project needs Python 3.11+, make and git; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# ruff does most of the linting; flake8 is here for the rules of flake8-async that ruff lacks. Not wanted of them:
# 114 (wants each startable function listed by name), 124 (wants functions without await to be synchronous, which
# fixtures and protocols cannot always be) and 127 (wants another HTTP library).
NO_ASYNC_RULES := ASYNC114,ASYNC124,ASYNC127
# That is the slowest check by far, and of one file at a time: only those that have changed are looked at again.
ASYNC_FILES := $(shell grep -rlE '\b(async|await|trio)\b' --include='*.py' trioworker tests examples benchmarks)
ASYNC_CHECKED := $(VENV)/.async-checked
READY := $(VENV)/.ready
BENCH := build/bench
# All of the package's names have complete types, or it shows which do not. (pyright finds the package by way of the
# python in PATH, and lists the modules first.)
ONLY_COMPLETE := awk '!/^   trioworker/ { text = text $$0 "\n" } /score: 100%/ { good = $$0 } \
	END { if (good) print good; else { printf "%s", text; exit 1 } }'

.PHONY: help demo demo-trio test test-fast soak endurance parity parity-warm bench bench-quick faults check format clean

help:
	@echo "make demo       start a local Prefect server, run three flow runs, show them"
	@echo "make demo-trio  a Trio program that serves its own functions as Prefect flows"
	@echo "make test       all tests, those against a real Prefect server included"
	@echo "make test-fast  the tests that need neither a server nor a process"
	@echo "make soak       simulated lives of workers, of which 'make test' plays a minute: an hour, or SECONDS=600"
	@echo "make parity     the same deployments run by Prefect's worker and by ours, compared (ten minutes)"
	@echo "make parity-warm  the same by ours, started fresh and started warm, compared (a quarter of an hour)"
	@echo "make bench      Prefect's worker and ours measured in turn: benchmarks/RESULTS.md (forty minutes)"
	@echo "make bench-quick  a first impression of that in three minutes"
	@echo "make endurance  a real server and two workers, a run a second, something broken every 30 s: an hour, or SECONDS=600"
	@echo "make faults     ten real faults for Prefect's worker and for ours: docs/reliability.md (twenty minutes)"
	@echo "make check      format, lint, flake8-async, strict types by mypy and pyright"
	@echo "make format     put the code into the project's format"

$(READY): pyproject.toml
	@echo "Preparing $(VENV) (a minute or two the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/python examples/quickstart.py

demo-trio: $(READY)
	@$(BIN)/python examples/greenhouse_demo.py

# Each core takes files of its own: one alone has twenty minutes to do. (For one test after the other: pytest itself.)
test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-fast: $(READY)
	$(BIN)/python -m pytest -m "not server and not process"

# Each time other seeds, unless SEED_FROM=0 says where to begin.
SECONDS ?= 3600
soak: $(READY)
	@$(BIN)/python -m tests.simulation --seconds $(SECONDS) $(if $(SEED_FROM),--seed-from $(SEED_FROM))

parity: $(READY)
	$(BIN)/python tests/parity/run.py

parity-warm: $(READY)
	$(BIN)/python tests/parity/run.py --worker-a fresh --worker-b warm

# As users have them: Prefect alone, and Prefect with trioworker beside it; both of the same versions.
$(BENCH)/.ready: pyproject.toml
	@echo "Preparing $(BENCH) (a minute or two the first time) ..."
	@test -x $(BENCH)/trioworker/bin/python || $(PYTHON) -m venv $(BENCH)/trioworker
	@test -x $(BENCH)/prefect/bin/python || $(PYTHON) -m venv $(BENCH)/prefect
	@$(BENCH)/trioworker/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[local]'
	@$(BENCH)/trioworker/bin/python -m pip freeze --exclude-editable > $(BENCH)/versions.txt
	@$(BENCH)/prefect/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(BENCH)/versions.txt prefect
	@touch $@

bench: $(BENCH)/.ready
	@$(BENCH)/trioworker/bin/python -m benchmarks

bench-quick: $(BENCH)/.ready
	@$(BENCH)/trioworker/bin/python -m benchmarks --quick

# Reports to build/bench/endurance, for an hour of it to docs/. MORE=--database=URL for another database than SQLite.
endurance: $(BENCH)/.ready
	@$(BENCH)/trioworker/bin/python -m benchmarks.endurance --seconds $(SECONDS) $(MORE)

faults: $(BENCH)/.ready
	@$(BENCH)/trioworker/bin/python -m benchmarks.faults

$(ASYNC_CHECKED): $(READY) Makefile $(ASYNC_FILES)
	$(BIN)/flake8 --select ASYNC1,ASYNC2,ASYNC3 --extend-ignore $(NO_ASYNC_RULES) \
		$(if $(filter-out %.py,$?),$(ASYNC_FILES),$?)
	@touch $@

check: $(READY) $(ASYNC_CHECKED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	@echo "How much of the package has types that a checker need not infer:"
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/basedpyright --verifytypes trioworker --ignoreexternal | $(ONLY_COMPLETE)

format: $(READY)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(BENCH) .mypy_cache .ruff_cache .pytest_cache .hypothesis
