# SPDX-License-Identifier: Apache-2.0
"""The one list of the graph's processes."""

import ast
import importlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from vla_nodes.bringup import main
from vla_nodes.bringup.graph import (
    RESPAWN_DELAY,
    RESPAWN_TRIES,
    BringupError,
    BringupOptions,
    MonitorOptions,
    NodeSpec,
    graph,
    monitor_graph,
)
from vla_nodes.bringup.processes import GraphProcesses

LAUNCH_FILES = Path(__file__).resolve().parents[2] / "launch"


def parameters(options: BringupOptions) -> dict[str, dict]:
    return {node.name: dict(node.parameters) for node in graph(options)}


def declared(node: NodeSpec) -> set[str]:
    """Parameters of a node, by its dataclass."""
    wanted = node.name.replace("_", "") + "parameters"
    return {
        name
        for kind in vars(importlib.import_module(node.module)).values()
        if isinstance(kind, type) and kind.__name__.lower() == wanted
        for name in kind.__dataclass_fields__
    }


def test_without_options_it_is_the_simulated_arm_in_simulated_time() -> None:
    nodes = parameters(BringupOptions())
    assert list(nodes) == ["sim", "commander", "policy", "supervisor"]
    assert nodes["policy"]["backend"] == "expert"
    assert nodes["supervisor"]["managed_nodes"] == ["sim", "commander", "policy"]
    assert all(nodes[name]["use_sim_time"] for name in ("commander", "policy", "supervisor"))
    assert nodes["sim"]["publish_clock"] is True


def test_a_robot_runs_without_the_simulation_in_its_own_time() -> None:
    nodes = parameters(
        BringupOptions(use_sim=False, backend="mine", checkpoint="/weights", contract="ur5e")
    )
    assert list(nodes) == ["commander", "policy", "supervisor"]
    assert not nodes["commander"]["use_sim_time"]
    assert nodes["policy"]["backend"] == "mine"
    assert nodes["policy"]["checkpoint"] == "/weights"


def test_the_policys_chunks_are_checked_where_an_energy_model_is_named_and_only_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "energy").mkdir()
    options = BringupOptions(backend="pi05", checkpoint=str(tmp_path))
    assert parameters(options)["policy"]["energy"] == ""
    named = replace(options, energy="/energy")
    assert parameters(named)["policy"] == parameters(options)["policy"] | {"energy": "/energy"}


@pytest.mark.parametrize(
    ("file", "options"),
    [("bringup.launch.py", BringupOptions), ("value_monitor.launch.py", MonitorOptions)],
)
def test_a_launch_file_describes_every_option(file: str, options: type) -> None:
    (described,) = (
        ast.literal_eval(line.value)
        for line in ast.parse((LAUNCH_FILES / file).read_text()).body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "DESCRIPTIONS"
    )
    assert list(described) == [option.name for option in fields(options)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BringupOptions(use_sim=False), "simulated arm only"),
        (BringupOptions(contract="nobody"), "'nobody' is neither"),
        (BringupOptions(contract="nobody.yaml"), "no file 'nobody.yaml'"),
        (BringupOptions(params_file="nothing.yaml"), "params_file: no file 'nothing.yaml'"),
        (BringupOptions(use_sim=False, backend="mine", lockstep=True), "lockstep"),
        (BringupOptions(use_sim_time=False, lockstep=True), "lockstep"),
        (BringupOptions(record="nowhere"), "record: no folder 'nowhere'"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(options: BringupOptions, words: str) -> None:
    with pytest.raises(BringupError, match=words):
        graph(options)


def test_every_node_has_a_parameter_for_what_it_is_given(tmp_path: Path) -> None:
    options = BringupOptions(record=str(tmp_path), value_checkpoint="/value")
    for node in (*graph(options), *monitor_graph(MonitorOptions(checkpoint="/value"))):
        assert set(node.parameters) - {"use_sim_time"} <= declared(node), node.name


def test_the_recorder_runs_where_there_is_a_folder_and_nothing_depends_on_it(
    tmp_path: Path,
) -> None:
    nodes = parameters(BringupOptions(record=str(tmp_path)))
    assert list(nodes) == ["sim", "commander", "policy", "recorder", "supervisor"]
    assert nodes["recorder"]["root"] == str(tmp_path)
    assert nodes["supervisor"]["managed_nodes"][-1] == "recorder"
    assert "recorder" in nodes["supervisor"]["optional_nodes"]


def test_with_a_value_function_it_is_the_monitor_that_tells_how_far_the_task_is() -> None:
    assert parameters(BringupOptions())["sim"]["publish_value"] is True
    options = BringupOptions(value_checkpoint="/value", value_engine="onnxruntime")
    nodes = parameters(options)
    assert list(nodes) == ["sim", "commander", "policy", "value_monitor", "supervisor"]
    assert nodes["sim"]["publish_value"] is False
    assert nodes["value_monitor"]["checkpoint"] == "/value"
    assert nodes["value_monitor"]["engine"] == "onnxruntime"
    assert nodes["value_monitor"]["use_sim_time"]
    assert "autostart" not in nodes["value_monitor"]
    assert "value_monitor" in nodes["supervisor"]["managed_nodes"]
    assert "value_monitor" in nodes["supervisor"]["optional_nodes"]


def test_a_monitor_alone_brings_itself_up() -> None:
    (node,) = monitor_graph(MonitorOptions(checkpoint="/value", task="tidy", use_sim_time=True))
    assert node.name == "value_monitor"
    assert node.parameters["autostart"] is True
    assert node.parameters["use_sim_time"] is True
    assert node.parameters["task"] == "tidy"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MonitorOptions(), "checkpoint: name the folder of a value function"),
        (MonitorOptions(checkpoint="/value", contract="nobody"), "'nobody' is neither"),
        (MonitorOptions(checkpoint="/value", params_file="no.yaml"), "no file 'no.yaml'"),
    ],
)
def test_options_of_a_monitor_that_do_not_fit_are_refused(
    options: MonitorOptions, words: str
) -> None:
    with pytest.raises(BringupError, match=words):
        monitor_graph(options)


@pytest.fixture
def own_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
def test_the_command_runs_a_monitor_alone_until_it_is_told_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple] = []

    class FakeProcesses:
        def __init__(self, nodes: tuple[NodeSpec, ...], *options: str) -> None:
            ran.append(([node.name for node in nodes], nodes[0].parameters["task"], *options))

        def __enter__(self) -> "FakeProcesses":
            return self

        def __exit__(self, *_: object) -> None:
            ran.append(("ended",))

        def watch(self) -> list[str]:
            os.kill(os.getpid(), signal.SIGTERM)
            return ["value_monitor ended with status 1"]

    monkeypatch.setattr(main, "GraphProcesses", FakeProcesses)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    words = ["--checkpoint", "/value", "--task", "tidy", "--namespace", "left"]
    monkeypatch.setattr("sys.argv", ["vla-monitor", *words])
    main.monitor()
    assert ran == [(["value_monitor"], "tidy", "left", ""), ("ended",)]
    assert "vla-monitor: value_monitor ended with status 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "vla-monitor: checkpoint: name the folder of a value function"),
        (["--checkpoint", "/value", "--rviz"], "ros2 launch vla_nodes value_monitor.launch.py"),
    ],
)
def test_the_command_of_a_monitor_alone_refuses_in_one_line(
    monkeypatch: pytest.MonkeyPatch, words: list[str], fault: str
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr("sys.argv", ["vla-monitor", *words])
    with pytest.raises(SystemExit) as raised:
        main.monitor()
    assert fault in str(raised.value)


def test_a_process_that_keeps_dying_is_started_again_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dies.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(NodeSpec, "module", property(lambda self: self.name))
    monkeypatch.setattr("vla_nodes.bringup.processes.RESPAWN_DELAY", 0.0)
    assert RESPAWN_DELAY > 0
    events: list[str] = []
    with GraphProcesses([NodeSpec("dies")], log_folder=tmp_path) as processes:
        end = time.monotonic() + 30.0
        while len(events) <= RESPAWN_TRIES and time.monotonic() < end:
            events += processes.watch()
    assert len(events) == RESPAWN_TRIES + 1
    assert all("dies ended with status 3" in event for event in events)
    assert "not started again" in events[-1]
