# Every target works in .venv, made on first use. PYTHON chooses the interpreter that makes it. Packages are those of
# constraints.txt, which were tested together; with LATEST=1 the newest, in an environment of their own.
PYTHON ?= python3
VENV := $(if $(LATEST),.venv-latest,.venv)
OTHER_VENV := $(if $(LATEST),.venv,.venv-latest)
BIN := $(VENV)/bin
CONSTRAINT := $(if $(LATEST),,--constraint constraints.txt)

NATIVE := setup.py CMakeLists.txt $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu)

.PHONY: always demo models experiments results pages test test-all native-test fuzz bench noise-check gpu-check lint clean \
    docs docs-pictures results-gpu matrix constraints sdist wheels

## Train a Langevin autoencoder on 4,500 real digits, two minutes on two cores; pictures and metrics in runs/demo.
demo: $(VENV)/built
	$(BIN)/ald-ext train --model lae --dataset mnist5k --out runs/demo --overwrite
	$(BIN)/ald-ext sample runs/demo --out runs/demo/more_samples.png --seed 1

## Train every model with its default settings, a quarter of an hour on two cores; writes docs/results/models.md.
models: $(VENV)/built
	models=$$($(BIN)/python -c 'from ald_ext.models import MODELS; print(*MODELS)') && for model in $$models; do \
	    out=docs/results/models/$$model && mkdir -p $$out && \
	    $(BIN)/ald-ext train --model $$model --out runs/models/$$model --overwrite && \
	    cp runs/models/$$model/*.json runs/models/$$model/*.png $$out/ || exit 1; \
	done
	$(MAKE) pages
	$(BIN)/python -m tools.readme_tables

## The paper's toy experiments, with every preset, about half an hour; writes docs/results/toy.md.
experiments: $(VENV)/built
	list=$$($(BIN)/ald-ext experiment --list --toy) && echo "$$list" | while read name presets; do \
	    for preset in $$presets; do \
	        out=docs/results/toy/$$name; [ $$preset = default ] || out=$$out/$$preset; \
	        $(BIN)/ald-ext experiment $$name --preset $$preset --out $$out </dev/null || exit 1; \
	    done; \
	done
	$(MAKE) pages
	$(BIN)/python -m tools.readme_tables

## The paper's experiments on images, hours on two cores; writes docs/results/images.md. DATA_ROOT holds torchvision's
## files (DOWNLOAD=1 fetches what is missing), OPTIONS such as "--datasets mnist --width 64 --seeds 3" go to every command.
DATA_ROOT ?= data
RESULTS_OPTIONS = --data-root $(DATA_ROOT) $(if $(DOWNLOAD),--download) --runs runs/shared $(OPTIONS)
results: $(VENV)/built
	mkdir -p $(DATA_ROOT)
	names=$$($(BIN)/ald-ext experiment --list --images) && for name in $$names; do \
	    $(BIN)/ald-ext experiment $$name --out docs/results/images/$$name $(RESULTS_OPTIONS) || exit 1; \
	done
	$(MAKE) pages
	$(BIN)/python -m tools.readme_tables

## Write the pages of docs/results from the files that the runs above left; with CHECK=--check compare them.
pages: $(VENV)/built
	$(BIN)/ald-ext report docs/results/toy --out docs/results/toy.md $(CHECK)
	$(BIN)/ald-ext report docs/results/models --out docs/results/models.md $(CHECK)
	$(BIN)/ald-ext report docs/results/images --out docs/results/images.md --tried docs/results/what_was_tried.md $(CHECK)
	test ! -d docs/results/images_gpu || \
	    $(BIN)/ald-ext report docs/results/images_gpu --out docs/results/images_gpu.md $(CHECK)

## The C++ tests and about 9,000 Python tests, on all cores: all but those that start processes or take long.
test: native-test
	$(PYTEST) -m "not processes and not exhaustive"

## All tests, about 10,000, as in CI.
test-all: test
	$(PYTEST) -m "processes or exhaustive"

PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
# SANITIZE=1: under AddressSanitizer and UBSan.
NATIVE_BUILD := build/$(if $(SANITIZE),sanitized,native)
native-test: $(VENV)/built
	$(BIN)/cmake -S . -B $(NATIVE_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	    -DALD_EXT_SANITIZE=$(if $(SANITIZE),ON,OFF)
	$(BIN)/cmake --build $(NATIVE_BUILD)
	$(BIN)/ctest --test-dir $(NATIVE_BUILD) --output-on-failure --parallel 2

## 1e5 random calls of the ops under AddressSanitizer and UBSan, each compared with ald_ext.reference, ten minutes on a
## quiet core: docs/results/fuzz.md. CALLS="--calls 2000" makes fewer, "--first 17 --calls 1" repeats call 17.
fuzz: $(VENV)/built
	ALD_EXT_SANITIZE=1 ALD_EXT_CUDA=0 $(BIN)/python setup.py --quiet build_ext --build-lib build/fuzz \
	    --build-temp build/fuzz/temporary
	$(BIN)/python -m tools.fuzz --sanitized build/fuzz $(CALLS)

## Measure every variant on this machine, about a quarter of an hour, and write the page docs/results/speed.md.
bench: $(VENV)/built
	$(BIN)/python -m benchmarks.speed --out benchmarks/results
	$(BIN)/python -m benchmarks.training --out benchmarks/results
	$(BIN)/python -m benchmarks.page
	$(BIN)/python -m tools.readme_tables

## Test the distribution and independence of 1e9 normals, five minutes on one core: docs/results/noise.md.
noise-check: $(VENV)/built
	$(BIN)/python -m tools.noise

## Build, test and measure on a CUDA machine, in the Python of PYTHON and without a network; STAGES names some stages.
gpu-check:
	PYTHON=$(PYTHON) tools/gpu_check.sh $(STAGES)

## The documentation as a site that reads without a network: docs/_build/html/index.html. Warnings are errors.
docs: $(VENV)/built
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html

## Draw the pictures of settings that are right and wrong again: docs/pictures.
docs-pictures: $(VENV)/built
	$(BIN)/python docs/draw_settings.py
	$(BIN)/python docs/draw_bayesian_networks.py
	$(BIN)/python docs/draw_learning_coefficient.py
	$(BIN)/python docs/draw_synthetic_anomalies.py

## Tables 2, 3 and 5 and Figures 6 to 9 and 11 to 14 at 64 channels with three seeds, as far as LIMIT seconds of a GPU
## reach, the first seed of everything first; in the Python of PYTHON and without a network. Called again, here or on
## another machine, it goes on: docs/results/images_gpu/campaign.json holds what there is.
LIMIT ?= 570
results-gpu:
	PYTHONPATH=. $(PYTHON) -m tools.gpu_results run --limit $(LIMIT) $(OPTIONS)

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*/*.h csrc/*/*/*.h csrc/*/*.cpp csrc/*/*.cu
	$(BIN)/mypy
	$(BIN)/python -m tools.readme_tables --check
	$(BIN)/python -m benchmarks.page --check
	$(MAKE) pages CHECK=--check
	$(BIN)/python -m tools.matrix --check

## Build and test with every Python here (PYTHON_VERSIONS="3.11 3.12") and every torch (TORCH="2.11 newest"), an hour or
## two on two cores: docs/compatibility.md. PYTHONS names interpreters that are not on PATH. What it downloads, up to
## 5 GB for each torch of a Python, is deleted at the end; OPTIONS="--keep" leaves it, OPTIONS="--cpu-index URL" needs less.
JOBS ?= 2
matrix: $(VENV)/release
	$(BIN)/python -m tools.matrix --torch '$(TORCH)' --python '$(PYTHON_VERSIONS)' --jobs $(JOBS) $(OPTIONS)

## Renew constraints.txt, and run all tests with it. torch is a release before the newest, which the matrix tests.
PINNED := torch==2.14.1 torchvision==0.29.1
constraints: $(VENV)/release
	printf '%s\n' $(PINNED) | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade --no-annotate \
	    --custom-compile-command 'make constraints' --all-extras --group build --group release \
	    --output-file constraints.txt pyproject.toml -
	$(MAKE) test-all

## Build the source distribution, and try it: unpacked elsewhere, installed in isolation, imported; then the README's
## lines of installation and its commands, in their order. Leaves it in dist.
sdist: $(VENV)/release
	$(BIN)/python -m tools.distribution sdist

## Build wheels for every Python here, with CUDA too where nvcc is, and try each without a compiler. Leaves them in dist.
wheels: $(VENV)/release
	$(BIN)/python -m tools.distribution wheels

clean:
	rm -rf .venv .venv-latest build dist runs ald_ext/*.so

# Build requirements come first and isolation is off, so that torch is installed once.
$(VENV)/installed: pyproject.toml constraints.txt $(if $(LATEST),always)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade $(CONSTRAINT) 'pip>=25.1'
	$(BIN)/pip install --upgrade $(CONSTRAINT) --group build
	touch $@

$(VENV)/built: $(VENV)/installed $(NATIVE)
	rm -f $(OTHER_VENV)/built  # the modules lie in the checkout, which both share
	$(BIN)/pip install $(CONSTRAINT) $(if $(LATEST),--upgrade) --no-build-isolation --verbose \
	    --editable '.[train,diagnostics,data,test,lint,docs]'
	touch $@

$(VENV)/release: $(VENV)/installed
	$(BIN)/pip install $(CONSTRAINT) --group release
	touch $@
