# SPDX-License-Identifier: Apache-2.0
"""Real graphs for the tests: own processes, own DDS domain, nothing leaves this machine."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from graph_client import GraphClient

from vla_nodes.bringup.graph import BringupOptions, find_contract, graph
from vla_nodes.bringup.processes import GraphProcesses
from vla_nodes.contract import Contract, load_contract

_count = itertools.count()

Launcher = Callable[..., "contextmanager[RunningGraph]"]


class RunningGraph:
    """A graph and a client of it."""

    def __init__(self, processes: GraphProcesses, client: GraphClient, contract: Contract) -> None:
        self.processes = processes
        self.client = client
        self.contract = contract


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ros)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain that no other test of this run uses."""
    number = 1 + (os.getpid() * 13 + next(_count)) % 100
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return number


@pytest.fixture
def contract() -> Contract:
    return load_contract(find_contract("sim_arm"))


@pytest.fixture
def wrist_elsewhere(tmp_path: Path) -> Callable:
    """Options and parameters of a graph whose wrist camera is not where the simulation's is."""

    def write(**changes: object) -> tuple[BringupOptions, dict[str, dict]]:
        document = yaml.safe_load(find_contract("sim_arm").read_text())
        document["cameras"]["wrist"] |= changes
        file = tmp_path / "elsewhere.yaml"
        file.write_text(yaml.safe_dump(document))
        parameters = {"sim": {"contract": str(find_contract("sim_arm"))}}
        return BringupOptions(contract=str(file)), parameters

    return write


@pytest.fixture
def launch(domain: int, tmp_path: Path, contract: Contract) -> Callable:
    """Starts a graph: ``with launch(options, parameters={"sim": {"cubes": 1}}) as running``."""

    @contextmanager
    def start(
        options: BringupOptions | None = None,
        parameters: dict[str, dict] | None = None,
        command_topic: str = "",
    ) -> Iterator[RunningGraph]:
        options = options or BringupOptions()
        file = tmp_path / "parameters.yaml"
        sections = {f"/{node}": {"ros__parameters": p} for node, p in (parameters or {}).items()}
        file.write_text(yaml.safe_dump(sections))
        logs = tmp_path / "logs"
        topic = command_topic or contract.actions[0].topic
        client = GraphClient(domain, topic, contract.action_names)
        processes = GraphProcesses(
            graph(options), params_file=str(file) if sections else "", log_folder=logs
        )
        with client, processes:
            stop = threading.Event()
            watcher = threading.Thread(target=_watch, args=(processes, stop), daemon=True)
            watcher.start()
            try:
                yield RunningGraph(processes, client, contract)
            except BaseException:
                for log in sorted(logs.glob("*.log")):
                    print(f"--- {log.name}\n{log.read_text()[-4000:]}")
                raise
            finally:
                stop.set()
                watcher.join()

    return start


def _watch(processes: GraphProcesses, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        processes.watch()
