# make tutorial   set up, run notebooks 01-05 into build/, say what was trained
# make lab        set up, open JupyterLab at notebook 01
# make test       set up, run every test and every notebook        (ARGS="-k data" to choose)
# make notebooks  run the series and store its outputs             (NB=notebooks/03_… to choose)
# make data       write the train and dev rows anew
# make pretrain   pre-train the miniature anew (fifteen hours on two cores)
# make clean      remove build/ and .venv/
#
# Another interpreter: make PYTHON=/path/to/python3.12 tutorial

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help tutorial lab test notebooks clean

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Stored outputs come from the CPU: hide CUDA devices where outputs are compared.
ON_CPU := CUDA_VISIBLE_DEVICES=

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# Set up once; again only when the dependencies change.
$(READY): pyproject.toml constraints.txt
	@python=$$(./.ci/find_python $(PYTHON)); \
	  echo "Setting up $(VENV) with $$python: about two minutes, then never again."; \
	  "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[test]" -c constraints.txt
	@touch $@

# What only tests and one cell of lesson 07 want: packed weights, TensorBoard.
EXTRAS := $(VENV)/.extras
$(EXTRAS): $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[test,quantization,tensorboard]" -c constraints.txt
	@touch $@

tutorial: $(READY)
	$(BIN)/python -m loraglm_helpers.notebooks tutorial

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=. $(ARGS) notebooks/01_inspect_the_data.ipynb

# Two processes: one begins with the notebooks, in their order, the other with the unit tests.
test: $(EXTRAS)
	$(ON_CPU) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

notebooks: $(EXTRAS)
	$(ON_CPU) $(BIN)/python -m loraglm_helpers.notebooks store $(NB)

clean:
	rm -rf build $(VENV)

# How what is in data/ was made. The pre-training takes fifteen hours on two cores;
# stopped anywhere, it goes on where it was.
# The tunable has glibc ask for huge pages: large tensors are faster to read and write there.
.PHONY: data pretrain
data: $(READY)
	$(BIN)/python -m loraglm_helpers.miniature.tasks --out data

pretrain: $(READY)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 OMP_NUM_THREADS=1 $(BIN)/python -m torch.distributed.run --nproc-per-node 2 -m loraglm_helpers.miniature.pretraining --out build/pretrain
	$(BIN)/python -m loraglm_helpers.miniature.publish --run build/pretrain
