# SPDX-License-Identifier: Apache-2.0
# make setup      .venv with ROS 2, the interfaces and this package (the other targets call it)
# make demo       the whole graph on the simulated arm; leaves a video and a plot in demo_output/
# make test       the checks that every change must pass; make test-slow: the long ones
# make bench      measurements
# make lint       formatting, lint and types

# DDS stays on this machine, and headless rendering works.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export MUJOCO_GL ?= egl

# With a sourced ROS 2 the interfaces' libraries lie in .venv, where its loader does not look.
ifdef ROS_DISTRO
export LD_LIBRARY_PATH := $(CURDIR)/.venv/lib:$(LD_LIBRARY_PATH)
export AMENT_PREFIX_PATH := $(AMENT_PREFIX_PATH):$(CURDIR)/.venv
endif

BIN := .venv/bin
PYTHON := $(BIN)/python

.PHONY: setup test test-slow demo bench lint clean

setup:
	@bash tools/setup.sh

# Models of tests are small: threads that wait for each other take longer than one alone. Graphs
# keep real time and have the machine to themselves.
test: export OMP_NUM_THREADS := 1
test: setup
	$(PYTHON) -m pytest --ignore tests/ros --numprocesses auto --maxprocesses 4 --dist loadfile
	$(PYTHON) -m pytest tests/ros

test-slow: setup
	$(PYTHON) -m pytest -m slow --timeout 1800

demo: setup
	$(PYTHON) -m vla_nodes.nodes.demo

bench: setup
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(PYTHON) $$benchmark || exit 1; done

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build install log demo_output .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
