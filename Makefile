# `make demo` and `make test` need Python 3.10 or newer and nothing else; other targets use what they set up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Builds in this environment have the emulator of AMX that tests run on.
export DIFNET_TEST_TARGETS := 1

SUITE = $(addprefix tests/kernels/mathematics/test_,accuracy.py derivatives.py properties.py training_twin.py) tests/kernels/pytorch/test_checks.py

# The kernels without torch, and the program that checks them. Small images are divided into groups of blocks, and calls
# of 2^17 multiply-adds among threads, as larger ones are.
CHECK = -DDIFNET_TEST_TARGETS -DDIFNET_GROUPS_PER_THREAD=1 -DDIFNET_WORTH_A_THREAD=131072 -std=c++17 -g -O1 \
  -Wall -Wextra -Werror -Wno-psabi \
  -ffp-contract=off -fno-math-errno -fno-trapping-math -pthread \
  tests/native/check.cpp $(filter-out csrc/registration.cpp,$(wildcard csrc/*.cpp csrc/*/*.cpp))

CPP = $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp tests/native/*.cpp benchmarks/machine/*.cpp)

# One process of tests for each core. tests/conftest.py gives each of them one thread.
PARALLEL = -n auto --maxprocesses 8 --dist worksteal

.PHONY: help setup demo test fast smoke lint bare isas compilers sanitize sanitize-threads sanitize-valgrind sanitize-memory accuracy \
  centring bench tables backbones experiments-page aot candidates gpu rehearse clean

help:                          ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready           ## make the environment .venv: install this project and what it needs

demo: $(VENV)/ready            ## set up, then train a small DifNet on drawn scenes
	$(BIN)/python -m difnet.train

test: $(VENV)/ready            ## set up, then run all tests
	$(BIN)/python -m pytest $(PARALLEL)

fast: $(VENV)/ready            ## run the tests that take less than ten seconds each
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

smoke: $(VENV)/ready           ## train for 30 steps, in a minute
	$(BIN)/python -m difnet.train --max-steps 30 --out runs/smoke

lint: $(VENV)/ready            ## check style, format and types, of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

bare: $(VENV)/ready            ## test the operator in an environment that holds torch and numpy alone
	rm -rf $(VENV)-bare
	$(BIN)/python -m venv --without-pip $(VENV)-bare
	$(BIN)/python tools/link_packages.py $(VENV)-bare torch numpy setuptools pip
	DIFNET_BUILD=0 $(VENV)-bare/bin/python $(INSTALL) --no-index --no-deps --no-build-isolation .
	$(VENV)-bare/bin/python -m pip check
	$(VENV)-bare/bin/python tests/bare_install.py

isas: $(VENV)/ready            ## test the operator on the compiled kernels of every instruction set of this machine
	for isa in $$($(BIN)/python -c 'from difnet_kernels.backends import instruction_sets; print(*instruction_sets()[1:])'); do \
	  echo "== $$isa"; DIFNET_CPU_ISA=$$isa $(BIN)/python -m pytest -q -k native $(SUITE) || exit 1; done

# If there is no clang++, Clang comes from the package ziglang, which needs no root. Without -mcpu it would compile
# everything for this machine's CPU, the portable kernels too.
compilers: $(VENV)/ready       ## build the compiled kernels with GCC and with Clang, and check both
	mkdir -p build
	g++ $(CHECK) -o build/check-gcc
	build/check-gcc 200
	if command -v clang++; then clang=clang++; \
	  else clang='$(BIN)/python -m ziglang c++ -mcpu=baseline'; fi && \
	  $$clang $(CHECK) -o build/check-clang
	build/check-clang 200

sanitize: sanitize-memory sanitize-threads sanitize-valgrind ## run the compiled kernels under AddressSanitizer, UBSan, ThreadSanitizer and valgrind

sanitize-threads:
	mkdir -p build
	$(CXX) $(CHECK) -fsanitize=thread -o build/check-threads
	build/check-threads 500

# Two threads: valgrind runs threads in turn, and five take it six times as long.
sanitize-valgrind:
	mkdir -p build
	$(CXX) $(CHECK) -o build/check
	if command -v valgrind; then valgrind -q --error-exitcode=9 --leak-check=full build/check 97 2; \
	  else echo 'not run: valgrind was not found'; fi

# The library and the program that checks the kernels share the objects of the kernels.
SANITIZED = build/sanitized
sanitize-memory: $(VENV)/ready
	CFLAGS="$(filter -D%,$(CHECK))" DIFNET_SANITIZE=1 DIFNET_BUILD=1 $(BIN)/python setup.py -q build \
	  --build-base $(SANITIZED) --build-temp $(SANITIZED)/objects --build-lib $(SANITIZED)/lib
	$(CXX) $(filter-out csrc/%,$(CHECK)) $(patsubst %.cpp,$(SANITIZED)/objects/%.o,$(filter csrc/%,$(CHECK))) \
	  -fsanitize=address,undefined -fno-sanitize-recover=all -o build/check-memory
	build/check-memory 500
	# From another folder: here, processes that tests start would take the library of the source folder.
	# Not the test that limits the address space, of which the sanitizer reserves most, nor those that measure memory.
	cd $(SANITIZED) && export PYTHONPATH=$(CURDIR)/$(SANITIZED)/lib ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" && \
	  $(abspath $(BIN))/python -c 'from difnet_kernels import _native as it; assert "sanitized" in it.__file__, it.__file__' && \
	  $(abspath $(BIN))/pytest -q -k 'native and not out_of_memory and not memory' $(CURDIR)/tests/kernels

accuracy: $(VENV)/ready        ## print the error of every backend against float64
	$(BIN)/python -m difnet_kernels.testing

# The folder of this machine's rows, such as amd-epyc-avx2; `make bench MACHINE=name` chooses another.
MACHINE ?= $(shell cd benchmarks && $(abspath $(BIN))/python -c 'from harness.rows import machine_name; print(machine_name())')

bench: $(VENV)/bench           ## measure the operator and the network and write all tables, in forty minutes
	rows=benchmarks/results/$(MACHINE) && \
	$(BIN)/python benchmarks/bench_rw.py --out $$rows/rw.jsonl && \
	$(BIN)/python benchmarks/bench_rw.py --cases native-walk --isas all --minutes 15 --out $$rows/walk.jsonl && \
	$(BIN)/python benchmarks/bench_rw.py --cases context camvid full-resolution --dtypes float32 --precisions highest --modes forward \
	  --minutes 15 --out $$rows/cases.jsonl && \
	$(BIN)/python benchmarks/bench_model.py --out $$rows/model.jsonl
	$(MAKE) tables

tables: $(VENV)/bench          ## write reports, plots and README's table from the rows in benchmarks/results
	cd benchmarks && $(abspath $(BIN))/python -m reporting.tables

backbones: $(VENV)/ready       ## write docs/backbones.md, the networks of timm that can be a backbone, in twenty minutes
	$(BIN)/python tools/backbones.py

experiments-page: $(VENV)/bench ## write docs/experiments.md and its figures from the records of experiments
	PYTHONPATH=benchmarks $(BIN)/python tools/experiments_page.py

aot: $(VENV)/ready             ## compile the GPU kernels for every architecture without a GPU; print registers, spills and cost
	$(BIN)/python tools/aot_report.py

candidates: $(VENV)/ready      ## rank tiles that could be entries of the table by the same report, in fifteen minutes
	mkdir -p build
	$(BIN)/python tools/aot_report.py --candidates --architectures sm_90 --dtypes 16 tf32 tf32x3 fp32 > build/candidates.txt
	$(BIN)/python tools/aot_report.py --candidates --architectures sm_80 --dtypes 16 tf32 --stages 2 >> build/candidates.txt
	mv build/candidates.txt benchmarks/results/candidates.txt

centring: $(VENV)/ready        ## print what centring does to features of each dtype, in Triton's interpreter
	TRITON_INTERPRET=1 $(BIN)/python tools/centring.py

gpu:                           ## on a GPU, with torch and triton of PYTHON: run tests, benchmark, sanitizer and tuning
	PYTHONPATH=benchmarks:. $(PYTHON) tools/gpu_checks.py

rehearse: $(VENV)/ready        ## run a small `make gpu` in Triton's interpreter, without a GPU
	PYTHONPATH=benchmarks:. $(BIN)/python tools/gpu_checks.py --rehearse --out $(VENV)/rehearsal

# For .ci/run: a target, whose seconds are written to build/seconds.
timed-%:
	@mkdir -p build; echo "== make $*"; started=$$(date +%s); $(MAKE) --no-print-directory $* && \
	  printf '%5d s  make %s\n' $$(($$(date +%s) - started)) $* | tee -a build/seconds

# torch first, and no build isolation: an isolated build would fetch a torch of its own.
$(VENV)/ready: pyproject.toml setup.py constraints.txt $(wildcard csrc/* csrc/*/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) setuptools ninja torch numpy
	command -v clang++ || $(BIN)/python $(INSTALL) ziglang
	$(BIN)/python $(INSTALL) --no-build-isolation --editable ".[dev]"
	touch $@

$(VENV)/bench: $(VENV)/ready
	$(BIN)/python $(INSTALL) --no-build-isolation --editable ".[dev,bench]"
	touch $@

clean:                         ## delete the environments and everything that was built
	rm -rf $(VENV) $(VENV)-bare build *.egg-info
