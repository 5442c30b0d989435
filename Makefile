# Each target sets up .venv if it is missing or pyproject.toml has changed, and is quick if it is there.
#   make lab              open JupyterLab at lesson 00         (PORT=8888, ARGS="…" go to JupyterLab)
# ARGS="00 08" takes these lessons alone, in every target that runs or writes notebooks.
#   make test             units, properties, every notebook, the browser        (other ARGS go to pytest)
#   make test-all         also what is marked slow
#   make device           the notebooks, and the tests of tests/device, on a device that is not the CPU: a GPU, else a
#                         pretend one, built with g++                           (ARGS="tests" for the tests alone)
#   make colab            run the notebooks in an environment like Colab's, with Python 3.13 where there is one
#   make site             run the lessons and write them as pages to site/
#   make answers          write the notebooks with every exercise answered, for teachers, to answers/
#   make bench            the table of speeds and sizes, or the seconds of lessons (ARGS="viewer 08" for some)
#   make size             how large each room is, in formatted lines
#   make retarget         let badges and clone lines name your copy   (REPO=owner/name, else `origin`)
#   make clean            remove the environments and what make has made; your runs in results/ and data/ stay
# With CPU=1 the set-up takes PyTorch's small CPU build, which on Linux is not the default one.

VENV   ?= .venv
COLAB  ?= .venv-colab
FIND_PYTHON = for python in python3 python3.13 python3.12 python3.11; do $$python -c \
    'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
    && echo $$python && break; done
PYTHON ?= $(eval PYTHON := $(shell $(FIND_PYTHON)))$(PYTHON)# looked for once, and only when it is needed
# Colab has Python 3.13. `python3.13` may be a shim that does not run, so each candidate is tried.
FIND_COLAB_PYTHON = for python in python3.13 $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.13.*[0-9]/bin/python; do \
    $$python -c 'import venv, ensurepip' 2>/dev/null && echo $$python && break; done
COLAB_PYTHON ?= $(eval COLAB_PYTHON := $(or $(shell $(FIND_COLAB_PYTHON)),$(PYTHON)))$(COLAB_PYTHON)
PORT   ?= 8888
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

export COURSE_STARTED := $(shell date +%s)

.PHONY: lab test test-all device colab site answers bench size retarget clean

lab: $(READY)
	$(RUN) -m jupyter lab --port=$(PORT) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
	    $$([ "$$(id -u)" = 0 ] && echo --allow-root) \
	    $$([ "$$(uname)$$DISPLAY$$WAYLAND_DISPLAY" = Linux ] && echo --no-browser) $(ARGS)

# A lesson's number stands for its notebook; where files are named, only these are run.
NAMED = $(foreach word,$(ARGS),$(or $(wildcard notebooks/$(word)_*.ipynb),$(word)))
PYTEST = $(RUN) -m pytest $(if $(filter tests/% notebooks/%,$(NAMED)),,tests notebooks) --numprocesses=auto --maxprocesses=4 --dist=loadscope \
    --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --durations=5 $(NAMED)

test: $(READY)
	$(PYTEST) -m "not slow"

ifneq ($(wildcard $(COLAB)/bin/python),)
export COURSE_CLASSIC_PYTHON ?= $(abspath $(COLAB)/bin/python)# the old Jupyter, for the explorer's slow test
endif

test-all: $(READY)
	$(PYTEST)

device: $(READY)
	$(RUN) tests/device/run_device.py $(ARGS)

colab: $(COLAB)/.ready
	$(COLAB)/bin/python tests/colab/run.py $(ARGS)

site answers: $(READY)
	$(RUN) -m tools.$@ $(ARGS)

bench: $(READY)
	$(RUN) tests/bench.py $(ARGS)

size: $(READY)
	$(VENV)/bin/python tools/size.py

retarget:
	$(call need_python,$(PYTHON))
	@$(PYTHON) retarget.py $(REPO)

clean:
	rm -rf $(VENV) $(COLAB) answers build site *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

define need_python
@test -n "$(1)" || { echo "no Python 3.11, 3.12 or 3.13 with venv was found; install one (on Debian or Ubuntu:" \
    "apt install python3 python3-venv) or name it: make PYTHON=/path/to/python" >&2; exit 1; }
endef

# What the set-up says where it cannot go on; pip's own words stand above.
CPU_BUILDS = https://download.pytorch.org/whl/cpu
FAIL = { echo "$(1)" >&2; exit 1; }
NO_CPU_BUILD = $(call FAIL,PyTorch's CPU build could not be fetched from $(CPU_BUILDS); check the network and run the \
    same line again$(comma) or leave out CPU=1)
NO_PACKAGES = $(call FAIL,some packages could not be installed; check the network and the disk$(comma) and run the same \
    line again)
NO_PAIR = $(call FAIL,torch and torchvision do not belong together: pip took them from two places; run 'make clean'$(comma) \
    then the same line without CPU=1 or with one package index in pip's settings)
comma := ,

$(READY): pyproject.toml
	$(call need_python,$(PYTHON))
	@echo "setting up $(VENV) with $(PYTHON): a few minutes the first time"
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
ifdef CPU
	@$(RUN) -m pip install --quiet --index-url $(CPU_BUILDS) "torch>=2.9,<3" torchvision || $(NO_CPU_BUILD)
endif
	@$(RUN) -m pip install --quiet --editable ".[dev]" || $(NO_PACKAGES)
	@$(RUN) -c "import torchvision" 2>/dev/null || $(NO_PAIR)
	@touch $@

$(COLAB)/.ready: tests/colab/requirements.txt
	$(call need_python,$(COLAB_PYTHON))
	@echo "setting up $(COLAB) with $(COLAB_PYTHON): some minutes the first time"
	@test "$$($(COLAB)/bin/python -V 2>&1)" = "$$($(COLAB_PYTHON) -V)" || $(COLAB_PYTHON) -m venv --clear $(COLAB)
ifdef CPU
	@$(COLAB)/bin/python -m pip install --quiet --index-url $(CPU_BUILDS) $$(grep '^torch' $<) || $(NO_CPU_BUILD)
endif
	@$(COLAB)/bin/python -m pip install --quiet --requirement $< || $(NO_PACKAGES)
	@$(COLAB)/bin/python -c "import torchvision" 2>/dev/null || $(NO_PAIR)
	@touch $@
