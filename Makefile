# Every target sets itself up: all that has to be there first is Python 3.10+ and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The site's tools as well, which the tests do not need.
READY_DOCS := .venv/.ready-docs
# Several test processes on few cores: threads of one would wait for those of another.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo docs test test-distributed test-timm test-space test-wheel build fuzz quality style clean

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

# The Space, the pages of the metrics and the notebook, in an environment of its own: gradio needs an older Pillow than the one
# of constraints.txt. The pages are opened in Chromium, where it is installed with its driver.
test-space:
	$(PYTHON) -m venv .venv-space
	.venv-space/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-space/bin/python -m pip install --quiet --editable ".[test,app]" nbclient ipykernel
	$(ONE_THREAD) .venv-space/bin/python -m pytest tests/with_gradio tests/test_notebook.py

# The two files of a release, in dist/.
build:
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/python -m pip install --quiet build twine
	rm -rf build dist
	.venv-build/bin/python -m build
	.venv-build/bin/python -m twine check --strict dist/*

# The wheel of dist/ in an empty environment: with the latest versions, or with RESOLUTION=lowest-direct with the lowest that
# pyproject.toml allows. The tests run beside a copy of all but the package, so that what they import is the wheel.
RESOLUTION := highest
test-wheel:
	rm -rf .venv-wheel build/beside
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet uv
	.venv-wheel/bin/uv pip install --quiet --python .venv-wheel/bin/python --resolution $(RESOLUTION) "$$(ls dist/*.whl)[test]"
	.venv-wheel/bin/uv pip list --python .venv-wheel/bin/python
	mkdir -p build/beside
	cp -r pyproject.toml mkdocs.yml README.md docs model_cards scripts space tests build/beside
	cd build/beside && $(ONE_THREAD) ../../.venv-wheel/bin/python -m pytest -n 2 --dist loadfile -m "not distributed" \
		--ignore tests/test_contributing.py tests

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
	rm -rf .venv .venv-build .venv-timm .venv-space .venv-wheel build dist demo
