# `make` lists what there is to do. Everything runs from the project-local environment in .venv.
.DEFAULT_GOAL := help
BIN := .venv/bin
PACKAGES := trove_grpc pki guestagent conductor taskmanager gateway trovectl

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 18
setup:           ## install what is missing: Debian's engines, the Python environment
	@tools/setup
demo: setup      ## a database from nothing: create, connect, kill, recover (KEEP=1 leaves it up)
	@$(BIN)/trovectl demo $(if $(KEEP),--keep)
test: setup      ## every test: unit, integration, acceptance
	@$(BIN)/python -m pytest
lint: setup      ## style, types, layers, protos and their baseline
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/baseline.binpb
	$(BIN)/python tools/generate_stubs.py --check
fmt: setup       ## format and autofix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
protos: setup    ## regenerate trove_grpc/gen from protos/
	$(BIN)/python tools/generate_stubs.py
lock: setup      ## resolve pyproject.toml into requirements.lock, with hashes
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --python-version 3.11 \
		--all-extras --group dev pyproject.toml --output-file requirements.lock
check: lint test ## what CI runs
test-mutations: setup ## break a promise at a time; each must make a test fail
	@$(BIN)/python tests/mutations/run.py
test-attacks: setup ## what root in one guest may try, all of it; report in build/
	@TROVE_TEST_ATTACKS=all $(BIN)/python -m pytest -q tests/attacks
test-chaos: setup ## kill -9 of every process at every step of every operation; report in build/
	@$(BIN)/python tests/chaos/run.py --report build/chaos-report.md
test-state: setup ## the state database away for ten minutes under a running installation
	@TROVE_TEST_OUTAGE_SECONDS=600 $(BIN)/python -m pytest --timeout 1800 \
		tests/acceptance/state-databases tests/integration/taskmanager/test_flows_on_postgresql.py
test-fleet: setup ## 1,000 agents, a gateway killed under them; report in build/
	@$(BIN)/python -m tests.fleet --agents 1000 --output build/fleet-report.md
test-revocation: setup ## 200 denials against 200 streams on two gateways; report in build/
	@$(BIN)/python -m tests.fleet.revocation --output build/revocation-report.md
test-return: setup ## 1,000 agents whose leaves all expired come back at once; report in build/
	@$(BIN)/python -m tests.fleet.mass_return --output build/return-report.md
test-sleepers: setup ## whole installations that slept over their certificates; clocks a day wrong
	@dpkg -s libfaketime >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends libfaketime
	@$(BIN)/python -m pytest -o timeout=1800 tests/sleepers/clocks.py tests/sleepers/whole_installation.py
test-rotation: setup ## both roots rotated under 200 agents and 30 database sessions; report in build/
	@$(BIN)/python -m tests.rotation --output build/rotation-report.md
test-rotation-kills: setup ## a root rotation killed at each of its steps, twice in a row
	@$(BIN)/python -m pytest -o timeout=1500 tests/rotation_kills/every_kill.py
test-clients: setup ## the REST API as its clients use it: OpenStack's command line and SDK, gophercloud, a fuzzer
	@TROVE_TEST_FUZZ_EXAMPLES=150 $(BIN)/python -m pytest -o timeout=1800 \
		tests/clients/test_smoke.py tests/clients/every_command.py \
		tests/integration/gateway_rest/test_openapi.py
test-openstack: setup ## CA keys in a real Barbican with a real Keystone: contract, failures, moves under agents
	@$(BIN)/python -m pytest tests/openstack/test_smoke.py tests/openstack/test_how_to.py \
		tests/openstack/barbican_contract.py tests/openstack/barbican_failures.py \
		tests/openstack/custody_with_agents.py
.PHONY: help setup demo test lint fmt protos lock check test-mutations
.PHONY: test-chaos test-state test-fleet test-sleepers test-revocation test-return
.PHONY: test-rotation test-rotation-kills test-openstack test-attacks test-clients
