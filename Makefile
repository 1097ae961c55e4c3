# The verbs. Each makes what it needs first (demo/setup.sh); as root, or as a user with sudo.
#
#   make demo        real mail through a private Postfix to a small app, with and without the milter; KEEP=1 leaves it running
#   make demo-stop   ends what KEEP=1 left running
#   make test        everything, a real Postfix included; ARGS="tests/test_x.py -k name" for a part
#   make lint        ruff, mypy strict, yamllint, ansible-lint, the tables of the roles, shell syntax
#   make lab         real hosts on this machine: the roles of ansible/, from a bare Debian to mail delivered; under 10 minutes
#   make lab-full    the rest of it too: Debian 13, an update under load, mutants; ARGS="SCENARIO..." for a part of either
#   make bench       messages a second, memory, hostile input, key guessing; writes .bench/results.json; FULL=1: for longer
#   make soak        mail through a real Postfix while everything around it breaks; N=20000 SEED=n MINUTES=20 (docs/soak.md)

PY := .venv/bin/python
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
# Run as root in somebody's checkout: leave no file there that its owner could not delete.
AS_ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1
ARGS ?=
# Three files of tests at once: with a real Postfix a test mostly waits.
AT_ONCE := -n 3 --dist loadfile
N ?= 20000
SEED ?= 0
MINUTES ?= 20

.PHONY: help demo demo-stop test lint bench soak lab lab-full

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@demo/setup.sh demo
	@$(AS_ROOT) KEEP="$(KEEP)" $(PY) demo/demo.py

demo-stop:
	@test -x $(PY) || { echo 'no demo was started from this checkout' >&2; exit 1; }
	@$(AS_ROOT) $(PY) demo/demo.py --stop

test:
	@demo/setup.sh test
	@scratch=$$(mktemp -d); trap '$(SUDO) rm -rf "$$scratch"' EXIT; \
	$(AS_ROOT) HYPOTHESIS_STORAGE_DIRECTORY="$$scratch" $(PY) -m pytest -p no:cacheprovider $(AT_ONCE) $(ARGS)

lint:
	@demo/setup.sh lint
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m yamllint --strict $$(git ls-files '*.yml' '*.yaml')
	@$(PY) ansible/argument_tables.py --check
	@PATH="$$PWD/.lab-venv/bin:$$PATH" ANSIBLE_CONFIG=ansible/ansible.cfg ansible-lint -q
	@$(PY) -m ruff format --check --quiet .
	@for script in demo/setup.sh .ci/run; do bash -n $$script || exit 1; done

bench:
	@demo/setup.sh bench
	@$(AS_ROOT) FULL="$(FULL)" $(PY) bench/run.py

soak:
	@demo/setup.sh soak
	@$(AS_ROOT) $(PY) -m tests.soak.soak --count $(N) --seed $(SEED) --minutes $(MINUTES) --mutant "$(MUTANT)"

lab lab-full:
	@demo/setup.sh lab
	@$(AS_ROOT) $(PY) tests/lab/lab.py run $(if $(filter lab-full,$@),--full) $(ARGS)
