# What there is to do with this project; `make help` lists it. Continuous integration calls the same targets (.ci/run).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Tests may be picked: make test TESTS='--test cli'
TESTS ?=
# Guests may be picked too: make test-guests GUESTS='bookworm-md trixie-uki'
GUESTS ?=
# How long fuzz-smoke may take, in seconds.
FUZZ_SECONDS ?= 60

.PHONY: help run test test-guests lint bench package fuzz-smoke clean setup

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 14

setup: ## install what build, run, test and lint need (Debian; root or sudo)
	@bash .ci/setup

run: ## build, start the service, convert a real guest that would not boot, boot the result
	@bash .ci/setup run
	$(CARGO) build --locked
	@bash packaging/sample/run target/debug/hyper2kvm

test: ## set up, then the whole test suite
	@bash .ci/setup test
	@bash .ci/test $(TESTS)

test-guests: ## every test guest, from its packages to a repaired machine that boots (an hour, or less)
	@bash .ci/setup test
	@bash .ci/test-guests $(GUESTS)

lint: ## formatting, clippy, rustdoc, dependency rules, shell syntax
	@bash .ci/setup build lint
	@bash .ci/lint

bench: ## measure against the goals; figures to docs/performance.md by hand
	@bash .ci/setup bench
	$(CARGO) bench --locked --bench service

package: ## .deb and .rpm into dist/
	@bash .ci/setup test
	@bash packaging/build

fuzz-smoke: ## property tests of every parser, many cases, for FUZZ_SECONDS
	@bash .ci/setup build
	@bash .ci/fuzz-smoke $(FUZZ_SECONDS)

clean: ## remove what was built here (cached sample guests stay)
	$(CARGO) clean
	rm -rf dist
