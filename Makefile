# The checks of this project, in the order of their speed. CI runs the same: `make check`.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: check format lint types imports kernels test slow bench

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
	$(PYTHON) -m pytest -q

slow:
	$(PYTHON) -m pytest -q -m "slow or peer"

bench:
	$(PYTHON) -m kernels.bench
	$(PYTHON) -m minigen.bench
