# `make demo` and `make test` need nothing but make and Python 3.11 or newer; they set up .venv by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test portability fuzz kills verdicts paths busy lint format docs examples notebooks browser wheel lock clean

demo: $(READY)
	@mkdir -p demo
	$(BIN)/sgdsim compare --force --out demo/digits.nc --plot demo/digits.png

# Two tests at a time, and BLAS and torch on one thread in each: waiting threads would take the cores from the other.
test: lint
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 25

# The suite as older CPUs would run it, on one and on two threads; the table of machines is in tests/portability.py.
# MACHINES="old haswell" and THREADS=1 choose some; PYTEST="tests/test_docs.py -x" goes to pytest.
portability: $(READY)
	$(BIN)/python tests/portability.py $(MACHINES) --threads $(or $(THREADS),1 2) -- $(PYTEST)

# Command lines and damaged files from a seed; the short form is in the suite. make fuzz SEED=7 COUNT=4000 DAMAGED=1000
fuzz: $(READY)
	cd tests && OPENBLAS_NUM_THREADS=1 ../$(BIN)/python -m fuzz --seed $(or $(SEED),0) --count $(or $(COUNT),2000) --damaged $(or $(DAMAGED),500)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp is made last, so that an interrupted set-up is begun again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sgdsim needs Python 3.11 or newer, got " + sys.version.split()[0] + "; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(READY)

# The site, into docs/_build/html; its console examples are run again by `make examples`.
docs: $(READY)
	$(BIN)/python -m sphinx -n -W --keep-going -b html docs docs/_build/html

examples: $(READY)
	$(BIN)/python docs/examples.py --write

# Run all notebooks again, in place; SGDSIM_FULL=1 for the full sizes.
notebooks: $(READY)
	$(BIN)/python tests/test_notebooks.py notebooks/*.ipynb

# The site and the sliders in the system's Chromium (on Debian: apt-get install chromium).
browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,notebooks,browser]'
	$(BIN)/python -m pytest tests/test_browser.py

# What is published, in dist/, with the checks of an index; the wheel is also what the Colab cells take.
wheel: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

# Sweeps stopped in every way and finished: cases of all kinds, or of KIND, from seed SEED on; a case takes a minute.
kills: $(READY)
	PYTHONPATH=tests OPENBLAS_NUM_THREADS=1 $(BIN)/python -m kills $(KIND) --seed $(or $(SEED),0) --count $(or $(COUNT),5)

# Yes, no or "?" against the truth on 40 problems of up to 5000 points: half an hour and 3 GB, with UP_TO=300 two minutes.
verdicts: $(READY)
	$(BIN)/python tests/verdict_table.py --up-to $(or $(UP_TO),5000)

# Losses by every path there is, on random problems: one table of differences. make paths COUNT=100 SEED=1
paths: $(READY)
	cd tests && OPENBLAS_NUM_THREADS=1 ../$(BIN)/python path_table.py --count $(or $(COUNT),40) --seed $(or $(SEED),0)

# Jobs alone and beside ten busy processes, on a machine that is quiet otherwise.
busy: $(READY)
	$(BIN)/python -m benchmarks.busy

# Write down the versions in .venv as the tested set, after the suite passed with them.
lock: $(READY)
	@{ echo "# The tested set, for: pip install -c constraints.txt …   Written by make lock."; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -v ' @ ' | LC_ALL=C sort -f; } > constraints.tmp
	@mv constraints.tmp constraints.txt

clean:
	rm -rf $(VENV) demo build dist *.egg-info
