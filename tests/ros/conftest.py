# SPDX-License-Identifier: Apache-2.0
"""Real graphs for the tests: own processes, own DDS domain, nothing leaves this machine."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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


@pytest.fixture(scope="session")
def value_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny value function for the simulated arm, nearly sure of -0.5. Not to be written to."""
    import tokenizers
    import torch
    from tokenizers import models, pre_tokenizers

    from vla_nodes.models.tokenizer import Tokenizer
    from vla_nodes.models.value_checkpoint import ValueInterface, write_value_checkpoint
    from vla_nodes.models.value_config import tiny
    from vla_nodes.models.value_model import make_value_model

    alphabet = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(alphabet[:3])
    config = replace(tiny("cross-attention"), history=2, history_step=0.4, max_tokens=64)
    torch.manual_seed(0)
    model = make_value_model(config)
    with torch.no_grad():
        last = [parameter for parameter in model.parameters() if parameter.shape == (201,)][-1]
        last.copy_(-40.0 * (torch.linspace(-1.0, 0.0, 201) + 0.5).abs())
    interface = ValueInterface(
        ("wrist", "front"), 20.0, ("clear the table",), 0, (0.8, 0.1, 0.1), {}
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "value"
    write_value_checkpoint(folder, model, config, interface, Tokenizer(tokenizer))
    return folder


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
