# Everything that a contributor calls. `make` alone lists it.
#
# Settings: HANDLERS (which example handlers to build), ARGS (passed on to `make run`, `make proof`, `make bench`), TARGETS
# and RUNS (for `make fuzz`), CA and NAME (for `make observe`).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-tests setup-lint build dist host handlers guests run demo observe test proof fuzz bench lint clean

# rustup's cargo before an older one of the system.
export PATH := $(HOME)/.cargo/bin:$(PATH)

HANDLERS ?= order notification coupon checkout billing payment inventory delivery saga mailer bounce history \
  insight posts activity
GUESTS := $(patsubst tests/guests/%/Cargo.toml,%,$(wildcard tests/guests/*/Cargo.toml))
ARGS ?=
TARGETS ?=
WASM := target/wasm32-wasip2/release
# The profile and the folder of the workspace, so that clippy finds what it has checked for that already.
AS_THE_HOST := CARGO_TARGET_DIR=target CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=false \
  CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install what a build needs and this machine lacks
	@.ci/setup build

setup-tests: ## the same, and what the tests need: sqlite3, curl, Java, Maven, the jars of Apache Kafka and Spring Kafka, Prometheus, Schemathesis
	@.ci/setup tests

setup-lint:
	@.ci/setup lint

build: setup ## build the daemon and the example handlers
	@$(MAKE) --no-print-directory host handlers

dist: setup ## build the daemon as it is installed: target/dist/tidemill, smaller and faster, in twice the time
	@cargo build --profile dist --locked -p tidemill

# The whole workspace, so that the tests find every dependency built with the features that they too need.
host:
	@cargo build --release --locked --workspace

# A file that has not changed keeps its time, so that a running daemon does not load it again.
define place
	@mkdir -p $(2)
	@cmp -s $(1) $(2)/$(notdir $(1)) || { cp $(1) $(2)/.new && mv $(2)/.new $(2)/$(notdir $(1)); }
endef

handlers: ## build the example handlers into target/handlers
	@.ci/wasm-cargo build --release --locked --manifest-path handlers/Cargo.toml $(HANDLERS:%=-p %)
	$(foreach name,$(HANDLERS),$(call place,handlers/$(WASM)/$(name).wasm,target/handlers)$(newline))

guests:
	@.ci/wasm-cargo build --release --locked --manifest-path tests/guests/Cargo.toml
	$(foreach name,$(GUESTS),$(call place,tests/guests/$(WASM)/$(name).wasm,target/guests)$(newline))

# Without a tidemill.toml here, with the one of the examples, whose folders would be beside it.
run: build ## start the daemon with an embedded broker and the example handlers; data in tidemill-data
	@if [ ! -e tidemill.toml ]; then \
	  export TIDEMILL_CONFIG=$${TIDEMILL_CONFIG:-handlers/tidemill.toml} TIDEMILL_DATA=$${TIDEMILL_DATA:-tidemill-data}; fi; \
	  TIDEMILL_HANDLERS=$${TIDEMILL_HANDLERS:-target/handlers} target/release/tidemill run $(ARGS)

# The files are copied, since Prometheus finds the daemon's address beside them.
observe: ## start a Prometheus on 127.0.0.1:9095 for a daemon that runs: metrics and alerts; data in target/prometheus (CA=FILE, NAME=HOST for [metrics.tls])
	@.ci/setup observe
	@url=$$(cat $${TIDEMILL_DATA:-tidemill-data}/metrics.url) || { echo "no daemon runs here: 'make run' starts one" >&2; exit 1; }; \
	  .ci/prometheus target/prometheus "$$url" "$(CA)" "$(NAME)" && \
	  echo "http://127.0.0.1:9095/alerts; docs/monitoring/dashboard.json is for Grafana" && \
	  prometheus --config.file=target/prometheus/prometheus.yml --storage.tsdb.path=target/prometheus/data \
	    --web.listen-address=127.0.0.1:9095 --log.level=warn

test: setup-tests ## run all tests
	@$(MAKE) --no-print-directory host handlers guests
	@TIDEMILL_BIN=$(CURDIR)/target/release/tidemill TIDEMILL_WASM=$(CURDIR)/target/handlers \
	  cargo test --locked --no-fail-fast --manifest-path handlers/Cargo.toml
	@cargo test --release --locked --no-fail-fast --workspace

# The scenarios without the handlers that decide them are a test of the scenarios' own program, which runs itself.
proof: setup-tests ## run the long tests: many rounds of faults under load; scenarios without their handlers (ARGS=empty); the admin API (ARGS=openapi)
	@$(MAKE) --no-print-directory host handlers guests
	@TIDEMILL_PROOF=full cargo test --release --locked --workspace --test proof -- --nocapture $(ARGS)
	@TIDEMILL_PROOF=full cargo test --release --locked --workspace --test scenarios -- --nocapture $(or $(ARGS),empty openapi)

demo: build ## show an order's way through the shop, a poison record, a duplicate and a kill, in the terminal
	@handlers/demo

fuzz: setup ## give RUNS (50000) inputs to each of TARGETS (all): what reads records, files, requests and the ledger
	@tests/fuzz/run $(TARGETS)

bench: setup-tests ## measure, and print the figures
	@$(MAKE) --no-print-directory host handlers guests
	@target/release/bench $(ARGS)

lint: setup setup-lint ## check format, clippy, licences and sources
	@cargo fmt --all --check
	@for each in handlers tests/fuzz tests/guests; do cargo fmt --manifest-path $$each/Cargo.toml --all --check; done
	@cargo clippy --release --locked --workspace --all-targets -- -D warnings
	@cargo clippy --locked --manifest-path handlers/Cargo.toml --all-targets -- -D warnings
	@.ci/wasm-cargo clippy --release --locked --manifest-path tests/guests/Cargo.toml -- -D warnings
	@$(AS_THE_HOST) cargo clippy --release --locked --manifest-path tests/fuzz/Cargo.toml -- -D warnings
	@for each in . handlers tests/fuzz tests/guests; do \
	  cargo deny --log-level error --manifest-path $$each/Cargo.toml --config .deny.toml check licenses bans sources; done
	@.ci/advisories

clean: ## remove what was built; data folders stay
	@rm -rf target handlers/target tests/fuzz/target tests/guests/target

define newline


endef
