# `make demo` and `make test` need Python 3.10 or newer and nothing else; the rest builds on what they set up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Builds in this environment have the emulator of AMX that tests run on.
export DIFNET_TEST_TARGETS := 1

SUITE = $(addprefix tests/kernels/mathematics/test_,accuracy.py derivatives.py properties.py training_twin.py) tests/kernels/pytorch/test_checks.py

# The kernels without torch, and the program that checks them. Small images are divided into groups of blocks as large
# ones are.
CHECK = -DDIFNET_TEST_TARGETS -DDIFNET_GROUPS_PER_THREAD=1 -std=c++17 -g -O1 -Wall -Wextra -Werror -Wno-psabi \
  -ffp-contract=off -fno-math-errno -fno-trapping-math -pthread \
  tests/native/check.cpp $(filter-out csrc/registration.cpp,$(wildcard csrc/*.cpp csrc/*/*.cpp))

CPP = $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp tests/native/*.cpp benchmarks/machine/*.cpp)

.PHONY: demo test fast smoke lint bare isas compilers sanitize accuracy centring bench tables backbones aot candidates gpu rehearse clean

demo: $(VENV)/ready            ## set up and run the main job: train a small DifNet on drawn scenes
	$(BIN)/python -m difnet.train

test: $(VENV)/ready            ## set up and run all tests
	$(BIN)/python -m pytest

fast: $(VENV)/ready            ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

smoke: $(VENV)/ready           ## the main job in a one-minute form
	$(BIN)/python -m difnet.train --max-steps 30 --out runs/smoke

lint: $(VENV)/ready            ## linter, formatters, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

bare:                          ## in an environment of its own: the operator with torch and numpy alone
	rm -rf $(VENV)-bare
	$(PYTHON) -m venv $(VENV)-bare
	$(VENV)-bare/bin/python $(INSTALL) setuptools torch numpy
	DIFNET_BUILD=0 $(VENV)-bare/bin/python $(INSTALL) --no-build-isolation .
	$(VENV)-bare/bin/python tests/bare_install.py

isas: $(VENV)/ready            ## the operator's tests on the compiled kernels of every instruction set of this machine
	for isa in $$($(BIN)/python -c 'from difnet_kernels.backends import instruction_sets; print(*instruction_sets()[1:])'); do \
	  echo "== $$isa"; DIFNET_CPU_ISA=$$isa $(BIN)/python -m pytest -q -k native $(SUITE) || exit 1; done

# If there is no clang++, Clang comes from the package ziglang, which needs no root. Unless told otherwise, it compiles
# everything for this machine's CPU, the portable kernels too.
compilers: $(VENV)/ready       ## build the compiled kernels with GCC and with Clang, and check both
	mkdir -p build
	g++ $(CHECK) -o build/check-gcc
	build/check-gcc 200
	if command -v clang++; then clang=clang++; \
	  else $(BIN)/python $(INSTALL) ziglang && clang='$(BIN)/python -m ziglang c++ -mcpu=baseline'; fi && \
	  $$clang $(CHECK) -o build/check-clang
	build/check-clang 200

sanitize: $(VENV)/ready        ## the compiled kernels under AddressSanitizer, UBSan, ThreadSanitizer and valgrind
	mkdir -p build
	$(CXX) $(CHECK) -fsanitize=thread -o build/check-threads
	build/check-threads 500
	$(CXX) $(CHECK) -o build/check
	if command -v valgrind; then valgrind -q --error-exitcode=9 --leak-check=full build/check 97; \
	  else echo 'not run: valgrind was not found'; fi
	$(CXX) $(CHECK) -fsanitize=address,undefined -fno-sanitize-recover=all -o build/check-memory
	build/check-memory 500
	DIFNET_SANITIZE=1 DIFNET_BUILD=1 $(BIN)/python setup.py -q build --build-base build/sanitized --build-lib build/sanitized/lib
	# From another folder: here, processes that tests start would take the library of the source folder.
	# Not the test that limits the address space, of which the sanitizer reserves most, nor those that measure memory.
	cd build/sanitized && export PYTHONPATH=$(CURDIR)/build/sanitized/lib ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" && \
	  $(abspath $(BIN))/python -c 'from difnet_kernels import _native as it; assert "sanitized" in it.__file__, it.__file__' && \
	  $(abspath $(BIN))/pytest -q -k 'native and not out_of_memory and not memory' $(CURDIR)/tests/kernels

accuracy: $(VENV)/ready        ## error of every backend against float64
	$(BIN)/python benchmarks/accuracy.py

# Rows of another machine have names of their own.
ROWS = benchmarks/results/$(1)-$(shell $(BIN)/python -c 'from difnet_kernels.backends import instruction_sets; print(instruction_sets()[0])').jsonl

bench: $(VENV)/bench           ## measure operator and network, and write the documents' rows: forty minutes
	$(BIN)/python benchmarks/bench_rw.py --out $(call ROWS,rw)
	$(BIN)/python benchmarks/bench_rw.py --cases native-walk --isas all --minutes 15 --out $(call ROWS,walk)
	$(BIN)/python benchmarks/bench_rw.py --cases context camvid full-resolution --dtypes float32 --precisions highest --modes forward \
	  --minutes 15 --out $(call ROWS,cases)
	$(BIN)/python benchmarks/bench_model.py --out $(call ROWS,model)
	$(MAKE) tables

tables: $(VENV)/bench          ## docs/benchmarks.md, README and plots from the rows in benchmarks/results
	cd benchmarks && $(abspath $(BIN))/python -m reporting.tables

backbones: $(VENV)/ready       ## docs/backbones.md: the networks of the installed timm that can be a backbone; twenty minutes
	$(BIN)/python tools/backbones.py

aot: $(VENV)/ready             ## compile the GPU kernels for every architecture, without a GPU; registers, spills, cost
	$(BIN)/python tools/aot_report.py

candidates: $(VENV)/ready      ## tiles that could be entries of the table, ranked by the same report; fifteen minutes
	mkdir -p build
	$(BIN)/python tools/aot_report.py --candidates --architectures sm_90 --dtypes 16 tf32 tf32x3 fp32 > build/candidates.txt
	$(BIN)/python tools/aot_report.py --candidates --architectures sm_80 --dtypes 16 tf32 --stages 2 >> build/candidates.txt
	mv build/candidates.txt benchmarks/results/candidates.txt

centring: $(VENV)/ready        ## what centring does to features of each dtype, in Triton's interpreter
	TRITON_INTERPRET=1 $(BIN)/python tools/centring.py

gpu:                           ## on a GPU, with the torch and triton of $(PYTHON): tests, benchmark, sanitizer, tuning
	PYTHONPATH=benchmarks $(PYTHON) tools/gpu_checks.py

rehearse: $(VENV)/ready        ## `make gpu` in small, in Triton's interpreter, without a GPU
	PYTHONPATH=benchmarks $(BIN)/python tools/gpu_checks.py --rehearse --out $(VENV)/rehearsal

# torch first, and no build isolation: an isolated build would fetch a torch of its own.
$(VENV)/ready: pyproject.toml setup.py constraints.txt $(wildcard csrc/* csrc/*/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) setuptools ninja torch numpy
	$(BIN)/python $(INSTALL) --no-build-isolation --editable ".[dev]"
	touch $@

$(VENV)/bench: $(VENV)/ready
	$(BIN)/python $(INSTALL) --no-build-isolation --editable ".[dev,bench]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-bare build *.egg-info
