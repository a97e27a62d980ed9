# The checks of this project, in the order of their speed. CI runs the same: `make check`.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: check format lint types imports kernels test slow mutants bench gpu

check: format lint types imports kernels test

format:
	$(PYTHON) -m ruff format --check .

lint:
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

imports:
	PATH="$(dir $(PYTHON)):$$PATH" lint-imports

# Every CUDA kernel for every architecture it claims: registers, shared memory, spills, against the committed table. Needs no GPU.
kernels:
	$(PYTHON) -m kernels.check

test:
	$(PYTHON) -m pytest -q -n auto

slow:
	$(PYTHON) -m pytest -q -m "slow or peer"

# How far the tests of the CUDA kernels see: changes made at random, and which of them no test notices. 15 minutes.
SEED ?= 1
mutants:
	$(PYTHON) tests/support/mutate_kernels.py --each 4 --jobs 2 --seed $(SEED)

bench:
	$(PYTHON) -m kernels.bench --device cpu
	$(PYTHON) -m minigen.bench

# What only a GPU can show, in the order that tells the most first. Needs CuPy; torch is the peer; compute-sanitizer comes
# with CUDA's toolkit. Each step ends by itself, in the minutes beside it at the latest. A step that
# fails does not stop the others. A part of them: make gpu-rungs gpu-bench; to go on with a benchmark that was cut off: make
# gpu-bench MISSING=--missing.
GPU_STEPS = gpu-rungs gpu-bench gpu-models gpu-beside gpu-sanitize
SANITIZERS = memcheck racecheck synccheck initcheck
WITHIN = timeout --kill-after=20
ON_GPU = $(PYTHON) -m pytest -q -rs -W default

.PHONY: $(GPU_STEPS) $(SANITIZERS)

gpu:
	$(MAKE) --keep-going $(GPU_STEPS)

# 4 minutes: does every rung run, is it right, are its bits the emulator's. A test that does not end, as where a kernel waits
# forever, is given up after 100 seconds and named (by pytest from 9 on), and the others go on.
gpu-rungs:
	$(WITHIN) 240 $(ON_GPU) -o faulthandler_timeout=100 -o faulthandler_exit_on_timeout=true -n 8 -m gpu tests/kernels -k "not model and not ddpm"

# 8 minutes: every rung beside its peers, all shapes; results, tables and plots are written as it goes.
gpu-bench:
	$(WITHIN) 520 $(PYTHON) -m kernels.bench --device cuda --record --minutes 7 $(MISSING)

# 4 minutes: DDPM follows its run on the CPU; every model trains and samples; the laws of our samplers on its arrays.
gpu-models:
	$(WITHIN) 240 $(ON_GPU) -n 4 -m gpu tests/kernels/test_gpu.py tests/minigen/laws/test_ours.py -k "model or ddpm or laws"

# 5 minutes: all that the emulator is tested with, launch by launch on the GPU too (tests/support/beside.py). Not for tests of
# the tools themselves, and of where sums are cut off, in which cards differ (emulator/sums.hpp; gpu-rungs has this card's).
gpu-beside:
	$(WITHIN) 300 $(ON_GPU) -n 12 --beside gpu tests/kernels -k "not cut_off and not compiles" \
		$(addprefix --ignore tests/kernels/test_,gpu.py gpu_bench.py check.py launch.py tensor_core_sums.py)

# 4 minutes: NVIDIA's own checks, side by side.
gpu-sanitize:
	$(MAKE) --keep-going -j4 $(SANITIZERS)

# A kernel may leave a part of a scratch array unwritten, which is copied to the host with it; what counts is that none reads it.
initcheck: ASKED = --check-api-memory-access no

$(SANITIZERS):
	$(WITHIN) 240 compute-sanitizer --tool $@ $(ASKED) --error-exitcode 9 \
		$(PYTHON) -m kernels.emulate all --device cuda --seeds 1
