# SPDX-License-Identifier: Apache-2.0
"""``vla-bringup``: the graph without a ROS installation."""

import os
import signal
import sys
import threading
from types import FrameType

import tyro

from vla_nodes.bringup.graph import BringupError, BringupOptions, graph
from vla_nodes.bringup.processes import GraphProcesses

WATCH_PERIOD = 0.2  # s


def main() -> None:
    """Run the graph until SIGINT or SIGTERM."""
    options = tyro.cli(BringupOptions, description="Run the graph on this machine.")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        if options.rviz:
            raise BringupError("rviz needs ros2 launch: ros2 launch vla_nodes bringup.launch.py")
        nodes = graph(options)
    except BringupError as error:
        sys.exit(f"vla-bringup: {error}")
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    with GraphProcesses(nodes, options.namespace, options.params_file) as processes:
        print(f"vla-bringup: started {', '.join(node.name for node in nodes)}; Ctrl-C ends them")
        while not ended.wait(WATCH_PERIOD):
            for event in processes.watch():
                print(f"vla-bringup: {event}", file=sys.stderr)


if __name__ == "__main__":
    main()
