# make demo    set up, train on a text that Python ships, generate
# make test    set up, run the tests
# make drill   longer tests: 20 kills, 4 processes, hosts cut off (as root)
# make soak    test a server under load for an hour
# make clients install other people's clients of the server, test them
# make lint    set up, check style, types and docs/commands.md
# make format  set up, fix style and format, write docs/commands.md
# make docs    set up, build the documentation as a site that works offline
# make bench   set up, compare training with stock Keras and PyTorch
# make clean   delete the environment

PYTHON ?= python3
VENV ?= .venv
CLIENTS ?= .venv-clients
BIN := $(VENV)/bin

.PHONY: demo test drill soak clients lint format docs bench clean

demo: $(VENV)/.installed
	$(BIN)/python train.py --max_minutes=0.65
	@echo
	@echo "A text from the trained model:"
	@echo
	$(BIN)/python generate.py --prompt="The "

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist=loadfile --no-loadscope-reorder

drill: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m drill

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak

clients: $(VENV)/.installed-test
	for file in tests/clients/requirements/*.txt; do \
	    environment=$(CLIENTS)/$$(basename $$file .txt); \
	    $(PYTHON) -m venv $$environment && \
	    $$environment/bin/python -m pip install --quiet --upgrade \
	        -r $$file || exit 1; \
	done
	-npm install --no-audit --no-fund --no-package-lock --prefix tests/clients
	CLIENTS=$(CLIENTS) $(BIN)/python -m pytest tests/clients_test.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/write_commands.py --check

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/write_commands.py

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/build_site.py

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/training_speed.py

clean:
	rm -rf $(VENV) $(CLIENTS) tests/clients/node_modules build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit( \
	    "Python %d.%d: Keras 3.15 needs 3.11 to 3.13: run make PYTHON=python3.12 ..." \
	    % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/.installed
