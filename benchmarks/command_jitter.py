# SPDX-License-Identifier: Apache-2.0
"""How punctual the commander is at 100 Hz: alone, and with every core loaded.

The real graph carries out tasks on the simulated arm, in its own processes over DDS. Periods are
measured in the commander's loop and read from its diagnostics. Measured with the real-time
privileges that this machine grants, and again with the kernel's refusal of them. The limit to
compare with is a bare Python loop that sleeps to absolute deadlines, run under the same load.

Run it with ``python benchmarks/command_jitter.py``.
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "ros"))
from graph_client import GraphClient

from vla_nodes.bringup.graph import BringupOptions, find_contract, graph
from vla_nodes.bringup.processes import GraphProcesses
from vla_nodes.contract import load_contract
from vla_nodes.nodes.realtime import fixed_rate

RATE = 100.0  # Hz
SECONDS = 30.0  # the commander's own window
UNPRIVILEGED = "--unprivileged"


def main() -> None:
    """Measure with and without privileges, idle and loaded, and print a table."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "91")
    print(f"{'':50}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}  ms between ticks")
    for loaded in (False, True):
        load = f"{os.cpu_count()} cores loaded" if loaded else "idle"
        with burning(os.cpu_count() or 1) if loaded else burning(0):
            bare = bare_loop()
            report(f"bare loop, {load}", bare)
            privileges, ours = commander()
            report(f"commander, {load} ({privileges})", ours)
            print(f"{'':50}p99 of the commander is {ours[2] / bare[2]:.2f} of the bare loop's")
    if UNPRIVILEGED not in sys.argv:
        drop = ["setpriv", "--bounding-set=-sys_nice,-ipc_lock", "--inh-caps=-sys_nice,-ipc_lock"]
        command = [*drop, sys.executable, __file__, UNPRIVILEGED]
        print("\nwithout real-time privileges:", flush=True)
        subprocess.run(command, check=False)


def commander() -> tuple[str, list[float]]:
    """Privileges, and percentiles of the commander's period in ms while it works on tasks."""
    contract = load_contract(find_contract("sim_arm"))
    domain = int(os.environ["ROS_DOMAIN_ID"])
    nodes = graph(BringupOptions())
    with (
        TemporaryDirectory() as logs,
        GraphClient(domain, contract.actions[0].topic, contract.action_names) as client,
        GraphProcesses(nodes, log_folder=Path(logs)),
    ):
        client.wait_until_ready(120.0)
        end = time.monotonic() + SECONDS
        seed = 0
        while time.monotonic() < end:
            client.reset_simulation(seed := seed + 1, cubes=4)
            client.execute("clear the table", time_limit=SECONDS)
        names = ("p50", "p95", "p99", "max")
        figures = [float(client.value("commander", f"period_{name}_ms")) for name in names]
        return client.value("commander", "real_time"), figures


def bare_loop() -> list[float]:
    """Percentiles of the period of a loop that does nothing, ms."""
    ticks: list[int] = []
    count = int(10.0 * RATE)
    fixed_rate(RATE, lambda now, _late: ticks.append(now), lambda: len(ticks) < count)
    return list(np.percentile(np.diff(ticks) * 1e-6, (50, 95, 99, 100)))


@contextmanager
def burning(processes: int) -> Iterator[None]:
    """Processes that keep a core busy each."""
    burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(processes)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


def burn() -> None:
    """Compute for ever."""
    while True:
        sum(range(10_000))


def report(name: str, figures: list[float]) -> None:
    """Print one row."""
    print(f"{name:50}" + "".join(f"{figure:8.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
