# Tickstream's commands. Each line with `##` is shown by `make help`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules

LOCAL := .local
STAMPS := $(LOCAL)/stamps
BIN := .venv/bin
STEP := infra/local/setup
UV_VERSION := 0.13.8
DASHBOARD := $(shell find api/dashboard clients/typescript -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)

# make run SOURCE=replay FILE=day.jsonl.zst SPEED=max: short names for the settings of the stack.
ifdef SOURCE
export TICKSTREAM_SOURCE := $(SOURCE)
endif
ifdef FILE
export TICKSTREAM_REPLAY_FILE := $(abspath $(FILE))
endif
ifdef SPEED
export TICKSTREAM_REPLAY_SPEED := $(SPEED)
endif
ifdef VENUE
export TICKSTREAM_VENUE := $(VENUE)
endif
ifdef RATE
export TICKSTREAM_EXCHANGE_RATE := $(RATE)
endif
ifdef SYMBOLS
export TICKSTREAM_EXCHANGE_SYMBOLS := $(SYMBOLS)
endif
ifdef ENGINE
export TICKSTREAM_ENGINE := $(ENGINE)
endif
ifdef WORKERS
export TICKSTREAM_WORKERS := $(WORKERS)
endif
ifdef STACK
export TICKSTREAM_STACK := $(STACK)
endif

.PHONY: help run up down setup ready test lint format dashboard chaos bench-latency bench-platform bench-feeds bench-storage bench-stream \
  clean distclean

help: ## Show this list
	@echo "make <goal>:"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | \
	  awk -F'\t' '{ printf "%-16s %s\n", $$1, $$2 }'

run: setup ## Start everything and show it live; SOURCE=sim|live|replay FILE= SPEED=1|10|max VENUE= RATE= SYMBOLS= ENGINE= WORKERS= STACK=docker
	@exec $(BIN)/tickstream up $(ARGS)

up: setup ## Start everything in the background (see `.venv/bin/tickstream status`)
	@exec $(BIN)/tickstream up --detach $(ARGS)

down: ## Stop what `make up` started
	@if [ -x $(BIN)/tickstream ]; then $(BIN)/tickstream down; fi

test: setup $(STAMPS)/chromium ## Run all tests against a separate stack; ARGS='-k books' selects some
	@exec $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## Check style, formatting, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports
	@$(BIN)/tickstream schemas check
	@$(BIN)/tickstream schemas docs --check

format: setup ## Format the Python code and apply automatic fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

chaos: setup ## Kill, freeze and stop processes of a separate platform, then check every value; ENGINE= SEED= SECONDS= WORKERS=
	@exec $(BIN)/python -m infra.chaos $(if $(ENGINE),--engine $(ENGINE)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

bench-latency: setup ## Measure the latency of each stage from socket to WebSocket client
	@exec $(BIN)/python -m bench.latency $(ARGS)

bench-platform: setup ## Time a replay through the whole platform, then sustain RATE= (10,000 orders/s) for MINUTES= (3)
	@$(BIN)/python -m bench.throughput replay
	@exec $(BIN)/python -m bench.throughput sustained --rate $(or $(RATE),10000) --symbols $(or $(SYMBOLS),100) \
	  --minutes $(or $(MINUTES),3) $(ARGS)

bench-feeds: setup $(STAMPS)/cryptofeed ## Measure each feed's frames per second, compared with cryptofeed
	@exec $(BIN)/python -m bench.feeds $(ARGS)

bench-storage: setup ## Measure the rows per second that the sink stores from Kafka, compared with COPY alone
	@exec $(BIN)/python -m bench.storage $(ARGS)

bench-stream: setup $(STAMPS)/quix ## Measure the stream pipeline, compared with a plain copy and Quix Streams
	@exec $(BIN)/python -m bench.stream $(ARGS)

# The environment is built first. The other steps are independent and mostly wait for the network, so they run in parallel.
setup: ## Install everything into .local/ and .venv/; fast when nothing has changed
	@$(MAKE) -s $(STAMPS)/venv
	@$(MAKE) -s -j3 ready

ready: $(STAMPS)/kafka-ui $(STAMPS)/dashboard $(STAMPS)/components $(STAMPS)/compiled

dashboard: $(STAMPS)/dashboard ## Build the dashboard's page when its sources have changed

$(STAMPS)/uv-$(UV_VERSION):
	@$(STEP) uv $(UV_VERSION)
	@mkdir -p $(@D) && touch $@

$(STAMPS)/venv: $(STAMPS)/uv-$(UV_VERSION) pyproject.toml uv.lock
	@$(STEP) venv
	@touch $@

# Optional: everything works without it, and the next setup tries again.
$(STAMPS)/compiled: $(wildcard marketdata/_*.pyx sink/_*.pyx) $(STAMPS)/venv
	@if $(STEP) compiled; then touch $@; fi

$(STAMPS)/components: infra/local/components.lock infra/local/components.py $(STAMPS)/venv
	@$(STEP) components
	@touch $@

$(STAMPS)/kafka-ui: infra/local/kafka_ui/pyproject.toml infra/local/kafka_ui/uv.lock $(STAMPS)/uv-$(UV_VERSION)
	@$(STEP) kafka-ui
	@touch $@

$(STAMPS)/cryptofeed: bench/cryptofeed/pyproject.toml bench/cryptofeed/uv.lock $(STAMPS)/uv-$(UV_VERSION)
	@$(STEP) cryptofeed
	@touch $@

$(STAMPS)/quix: bench/quix/pyproject.toml bench/quix/uv.lock $(STAMPS)/uv-$(UV_VERSION)
	@$(STEP) quix
	@touch $@

$(STAMPS)/dashboard: $(DASHBOARD)
	@if [ -f api/dashboard/package.json ]; then $(STEP) dashboard; fi
	@mkdir -p $(@D) && touch $@

$(STAMPS)/chromium:
	@$(STEP) chromium
	@mkdir -p $(@D) && touch $@

clean: down ## Stop everything and remove its data, logs and passwords; keep downloads
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m infra.local.clean; fi
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

distclean: clean ## Also remove everything that was downloaded or built
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m infra.local.clean --downloads; fi
	@rm -rf --one-file-system $(LOCAL) .venv api/static api/dashboard/node_modules
