# SPDX-License-Identifier: Apache-2.0
"""``vla-bringup`` and ``vla-monitor``: the graph or the value monitor without ``ros2 launch``."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

import tyro

from vla_nodes.bringup.graph import (
    BringupError,
    BringupOptions,
    MonitorOptions,
    NodeSpec,
    graph,
    monitor_graph,
)
from vla_nodes.bringup.processes import GraphProcesses

WATCH_PERIOD = 0.2  # s


def main() -> None:
    """Run the graph until SIGINT or SIGTERM."""
    options = tyro.cli(BringupOptions, description="Run the graph on this machine.")
    _run("vla-bringup", "bringup.launch.py", options, graph)


def monitor() -> None:
    """Run the value monitor alone until SIGINT or SIGTERM."""
    options = tyro.cli(MonitorOptions, description="Run the value monitor alone on this machine.")
    _run("vla-monitor", "value_monitor.launch.py", options, monitor_graph)


def _run[O: BringupOptions | MonitorOptions](
    command: str, launch_file: str, options: O, make_nodes: Callable[[O], Sequence[NodeSpec]]
) -> None:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        if options.rviz:
            raise BringupError(f"rviz needs ros2 launch: ros2 launch vla_nodes {launch_file}")
        nodes = make_nodes(options)
    except BringupError as error:
        sys.exit(f"{command}: {error}")
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    with GraphProcesses(nodes, options.namespace, options.params_file) as processes:
        print(f"{command}: started {', '.join(node.name for node in nodes)}; Ctrl-C ends them")
        while not ended.wait(WATCH_PERIOD):
            for event in processes.watch():
                print(f"{command}: {event}", file=sys.stderr)


if __name__ == "__main__":
    main()
