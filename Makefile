# `make demo`, `make test` and `make docs` set everything up by themselves; they need Python with
# venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFORMANCE := .venv-conformance
ENGINES := ray spark beam
packages_ray := "ray[serve,data]>=2.55"
packages_spark := "pyspark>=3.5"
packages_beam := "apache-beam>=2.70"
BUILD_INPUTS := pyproject.toml tests/deploy/requirements.txt \
	protos/build_hook.py protos/stubs.py $(shell find protos -name '*.proto')
NATIVE_INPUTS := $(wildcard server/native/*.toml server/native/Cargo.lock server/native/src/*.rs server/native/src/*/*.rs)

# What the tests start is compiled once, and not anew in each process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: azurite help bench compare demo dist docs test lint fmt types unit e2e engines-test install native native-test native-fuzz protos release-check clean

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## make .venv with ladle and everything that working on it needs
	@$(MAKE) --no-print-directory native

# All cores compile at once; pip would use one. Some packages bring files that don't compile.
$(VENV)/.installed: $(BUILD_INPUTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/wheels -r tests/deploy/requirements.txt
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
	@touch $@ $(VENV)/.demo

# The native transport is compiled where Rust is; grpcio serves where it is not. CI needs it.
native: $(VENV)/.demo
	@if command -v cargo >/dev/null; then \
	  $(MAKE) --no-print-directory $(VENV)/.native || test -z "$(CI)"; \
	elif test -n "$(CI)"; then \
	  echo "make: cargo is needed for the native transport" >&2; exit 1; \
	else \
	  echo "no cargo: gRPC is served by grpcio, and not by the native transport"; \
	fi

# Without isolation, which would give each build another path and compile everything anew.
$(VENV)/.native: $(VENV)/.demo $(NATIVE_INPUTS)
	@echo "Compiling the native transport, which takes a minute or two, once."
	test -x $(BIN)/maturin || $(BIN)/python -m pip install --quiet "maturin>=1.9,<2"
	PATH="$(CURDIR)/$(BIN):$$PATH" CARGO_TARGET_DIR="$(CURDIR)/build/native" \
		$(BIN)/python -m pip install --quiet \
		--no-build-isolation --no-deps ./server/native
	@touch $@

# The official client lives in an environment of its own that borrows ours for TensorFlow:
# ladle's own environment must never hold a second definition of the protos.
$(CONFORMANCE)/.installed: $(VENV)/.installed tests/conformance/requirements.txt
	$(BIN)/python -m venv --without-pip $(CONFORMANCE)
	$(CONFORMANCE)/bin/python tests/conformance/borrow.py $(VENV)
	$(BIN)/python -m pip --python $(CONFORMANCE)/bin/python install --quiet --no-deps \
		-r tests/conformance/requirements.txt
	@touch $@

azurite: ## Azure's stand-in for tests/store/test_azurite.py, which is skipped without it; needs npm
	npm install --prefix build/azurite --no-fund --no-audit --ignore-scripts azurite@3.35.0

demo: $(VENV)/.demo ## in two minutes: train, publish, serve and predict real images
	@$(MAKE) --no-print-directory native
	$(BIN)/python examples/demo.py

# What a demo needs, and no more; `make install` brings it too.
$(VENV)/.demo: $(BUILD_INPUTS)
	@echo "This takes some two minutes. Installing TensorFlow and what else the demo needs into $(VENV) first."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --editable ".[server,export,plots]"
	@touch $@

# Both at once: the tests leave a part of two cores idle.
test: install ## lint, and every test
	$(MAKE) --no-print-directory --jobs=2 lint unit

lint: install ## ruff, codespell and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# cargo's own tests need no Python. CI runs this; who has no cargo can't.
native-test: ## format, lint and test the native transport, with cargo
	cd server/native && cargo fmt --check
	cd server/native && CARGO_TARGET_DIR="$(CURDIR)/build/native" \
		cargo clippy --quiet --locked --all-targets -- --deny warnings
	cd server/native && CARGO_TARGET_DIR="$(CURDIR)/build/native" \
		cargo test --quiet --locked --no-default-features
	cd server/native && CARGO_TARGET_DIR="$(CURDIR)/build/native" \
		cargo test --quiet --locked --no-default-features --features shuttle interleavings

# Each target for so many seconds; what it finds is kept in server/native/fuzz/artifacts.
FUZZ_SECONDS ?= 60
native-fuzz: ## send the native transport what nobody thought of; needs cargo-fuzz and nightly Rust
	cd server/native && for target in alike authority messages connection; do \
		mkdir -p fuzz/corpus/$$target && \
		cargo +nightly fuzz run --target-dir "$(CURDIR)/build/fuzz" $$target \
			fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=30 || exit 1; done

types: install ## mypy alone
	$(BIN)/mypy

fmt: install ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two workers, each with files of its own: many tests wait for processes. More of them would take
# gigabytes, as each imports TensorFlow. Files come in their order, with short ones last. Counting
# branches takes 5 % more time; the run fails below what pyproject.toml says.
unit: install $(CONFORMANCE)/.installed
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term

e2e: install $(CONFORMANCE)/.installed ## only the tests with real processes and real models
	$(BIN)/pytest -m "e2e or conformance"

# Engines pin what many packages need, so each has an environment of its own, which borrows ours.
$(ENGINES:%=.venv-%/.installed): .venv-%/.installed: $(VENV)/.installed
	$(BIN)/python -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet $(packages_$*) pyarrow pandas pyyaml
	.venv-$*/bin/python tests/conformance/borrow.py $(VENV)
	@touch $@

# Spark needs Java.
engines-test: $(ENGINES:%=.venv-%/.installed) $(CONFORMANCE)/.installed ## ladle with Ray, Spark and Beam; installs them into .venv-ray and so on
	$(BIN)/pytest tests/e2e/upstream/test_ray.py tests/docs/test_engines.py

bench: install ## measure what a request costs; needs h2load (apt-get install nghttp2-client)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/standings.py

compare: install ## ladle beside KServe, MLServer, mosec and Ray Serve; installs them into ~/.cache
	$(BIN)/python benchmarks/compare.py

docs: $(VENV)/.docs ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Needs nothing but its own tools: it reads the code's docstrings from the sources.
$(VENV)/.docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

dist: install ## build wheel and sdist into dist, and try the wheel in an empty environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python release/try_wheel.py dist

release-check: ## say whether tree, version, changelog and tags agree
	@$(PYTHON) release/release_check.py

protos: install ## compile protos/ again
	$(BIN)/python protos/build_hook.py

clean: ## remove what make made
	rm -rf $(VENV) $(CONFORMANCE) build dist demo
