SHELL := bash
IN_ENV := source scripts/env.sh &&
# A link that leads nowhere is an error (but not with --quiet). Nothing is fetched.
MKDOCS := NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

.PHONY: help setup test demo lint docs params clean distclean

help:  ## show this text
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup:  ## make .venv: the package, ROS 2 where none is sourced, the messages (nothing to do: under 1 s)
	@scripts/setup.sh

test: setup  ## run all tests; ARGS='-k matching' goes to pytest
	$(IN_ENV) python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		--reruns 2 --only-rerun 'in vain waited' $(ARGS)

demo: setup  ## drive a robot through a simulated world, or play BAG=path, into the real node
	$(IN_ENV) vpr demo $(if $(BAG),--bag '$(BAG)') $(ARGS)

lint: setup  ## run ruff, mypy and import-linter, and check the links of the documentation
	$(IN_ENV) python -m ruff check && python -m mypy && lint-imports && $(MKDOCS)

docs: setup  ## build the documentation into site/
	$(IN_ENV) $(MKDOCS)

params: setup  ## write config/vpr.yaml and the docs' tables of parameters, messages, reasons
	$(IN_ENV) python scripts/reference.py

clean:  ## remove what was built and cached, but not .venv
	rm -rf build install log site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf .venv
