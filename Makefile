# Every target says what it does: make help
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SERVERS := .venv-servers

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-servers test-verl test-verifiers test-trl test-install check format bench-startup bench-judge bench-store bench-service bench-train bench-peer gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	python3 -m venv $(VENV)

# torch comes first and alone: the pinned CPU build, before another package asks for any torch.
$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PY) -m pip install -q -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install -q -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/.installed-dev: $(STAMP)
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

# CHAT=http://host:8000/v1 MODEL=name grades and evolves with a real model instead of the simulated one.
CHAT_ARGS := $(if $(CHAT),chat.base_url=$(CHAT) chat.model=$(MODEL),)

demo: $(STAMP)  ## watch a policy game a vague rubric, and MPO repair it (sandbox, about 5 minutes)
	$(VENV)/bin/mpo compare sandbox/essay --arms fixed,mpo --name demo $(CHAT_ARGS)

# Two workers, one thread of torch each: with more they would wait for each other.
test: $(VENV)/.installed-dev  ## the default tests, under 6 minutes on 2 cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m "not slow and not servers"

test-slow: $(VENV)/.installed-dev  ## real training: 2 ranks, kill and resume
	$(PY) -m pytest -m slow

# A venv of its own: servers pin what the library must not. llama.cpp is compiled, in 10 minutes or
# more; it is made once, and `make clean` leaves it.
$(SERVERS)/.installed:
	python3 -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(SERVERS)/bin/python -m pip install -q gguf 'llama-cpp-python[server]' 'transformers[serving]'
	touch $@

test-servers: $(VENV)/.installed-dev $(SERVERS)/.installed  ## the chat client against llama.cpp and transformers serve
	$(PY) -m pytest -m servers tests/servers

# Engines pin torch, transformers and each other: each gets a venv of its own, made once.
.venv-verl/.installed:
	python3 -m venv .venv-verl
	.venv-verl/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	.venv-verl/bin/python -m pip install -q 'verl==0.9.1' TransferQueue cachetools pytest -e '.[serve]'
	touch $@

test-verl: .venv-verl/.installed  ## the reward manager in veRL's own Ray workers (installs 2 GB)
	.venv-verl/bin/python -m pytest tests/service/test_service_verl.py

.venv-verifiers/.installed:
	python3 -m venv .venv-verifiers
	.venv-verifiers/bin/python -m pip install -q 'verifiers==0.4.0' pytest -e '.[serve]'
	touch $@

test-verifiers: .venv-verifiers/.installed  ## the judge plugin in verifiers' own runner (installs 0.6 GB)
	.venv-verifiers/bin/python -m pytest tests/service/test_service_verifiers.py

# TRL 0.17.0, the last that the published code's fork was made from, with the packages of its time.
.venv-peer/.installed:
	python3 -m venv .venv-peer
	.venv-peer/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	.venv-peer/bin/python -m pip install -q -c constraints.txt 'trl==0.17.0' 'transformers==4.51.3' \
		'accelerate==0.34.2' 'peft==0.15.2' 'datasets==3.6.0' 'tokenizers==0.21.4' 'numpy==2.2.6' rich
	touch $@

bench-peer: $(STAMP) .venv-peer/.installed  ## our PPO beside TRL 0.17.0's, GRPO with and without grading
	$(PY) benchmarks/train.py

# TRL 1.9.2 imports requests without asking for it; newer ones do not.
.venv-trl-old/.installed:
	python3 -m venv .venv-trl-old
	.venv-trl-old/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	.venv-trl-old/bin/python -m pip install -q -c constraints.txt 'trl==1.9.2' requests pytest -e '.[train]'
	touch $@

.venv-trl-new/.installed:
	python3 -m venv .venv-trl-new
	.venv-trl-new/bin/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	.venv-trl-new/bin/python -m pip install -q -c constraints.txt pytest -e '.[train]'
	touch $@

TRL_TESTS := $(addprefix tests/training/test_, trl.py trl_peft.py run.py resume.py ranks.py)

test-trl: .venv-trl-old/.installed .venv-trl-new/.installed  ## GRPO and RLOO with the oldest and the newest TRL
	.venv-trl-old/bin/python -m pytest $(TRL_TESTS)
	.venv-trl-new/bin/python -m pytest $(TRL_TESTS)

gpu: $(STAMP)  ## PPO and GRPO in bfloat16 on 1.5 billion random weights: a table, for a machine with a GPU
	$(PY) benchmarks/train.py --gpu

test-install:  ## whether pip resolves this package beside each engine (dry runs)
	scripts/test_install.sh python3

check: $(VENV)/.installed-dev  ## format, lint, types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed-dev  ## format, and fix what can be fixed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# ARGS=--json and the like go to the script.
bench-startup: $(STAMP)  ## how long mpo --help and import mpo take
	$(PY) benchmarks/startup.py $(ARGS)

bench-judge: $(STAMP)  ## grading under load: rate, processor time, memory, calls and tokens
	$(PY) benchmarks/judge.py $(ARGS)

bench-store: $(STAMP)  ## the store: appending, the evidence query, resume
	$(PY) benchmarks/store.py $(ARGS)

bench-service: $(STAMP)  ## the service under load, and killed
	$(PY) benchmarks/service.py $(ARGS)

bench-train: $(STAMP)  ## training: PPO and GRPO; make bench-peer adds TRL 0.17.0
	$(PY) benchmarks/train.py $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
