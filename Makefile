# Every target sets itself up: all that has to be there first is Python 3.10+ and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The site's tools as well, which the tests do not need.
READY_DOCS := .venv/.ready-docs
# Several test processes on few cores: threads of one would wait for those of another.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo docs test test-distributed test-timm fuzz quality style clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,quality]"
	touch $@

$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

demo: $(READY)
	$(BIN)/hf-unlearn demo --output_dir demo --overwrite

# The site, in build/site: open index.html. A broken link or any other warning stops it. The variable turns off a
# notice of the theme on a later version of mkdocs.
docs: $(READY_DOCS)
	$(BIN)/python -m scripts.docs.pages build/docs_source
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(READY) quality
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not distributed" tests
	$(ONE_THREAD) $(BIN)/python -m pytest -m distributed tests

test-distributed: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -m distributed tests

# Models of timm, in an environment of its own: timm needs torchvision, whose wheels are built for CUDA.
test-timm: $(READY)
	$(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-timm/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	.venv-timm/bin/python -m pip install --quiet --no-deps timm==1.0.31 torchvision==0.28.0
	$(ONE_THREAD) PYTHONPATH=tests/with_timm .venv-timm/bin/python -m pytest -p torchvision_on_cpu tests/with_timm

# 10,000 requests, records, reports and cards that no one would write; about half an hour.
fuzz: $(READY)
	$(ONE_THREAD) FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest --timeout=3600 tests/test_fuzz.py

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

style: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-timm demo
