# SPDX-License-Identifier: Apache-2.0
"""The graph's processes without ros2 launch: start, start again, end in order."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import yaml

from vla_nodes.bringup.graph import RESPAWN_DELAY, RESPAWN_TRIES, NodeSpec, node_environment

RESPAWN_WINDOW = 60.0  # s that a process must live for its earlier deaths to be forgotten
STOP_TIMEOUT = 10.0  # s that a node may take to end after SIGINT


class GraphProcesses:
    """Runs every node of a graph in a process of its own; a context manager.

    A process that dies is started again a bounded number of times. On leaving, the processes are
    ended one after the other in reverse order, but the commander outlives all that feed it, so
    that it can bring the robot to rest. Enter, watch and leave from one thread: when the thread
    that started a process ends, the system ends the process.

    Args:
        nodes: In the order of starting.
        namespace: Namespace of all nodes.
        params_file: ROS parameter file read after the nodes' own parameters; may be empty.
        log_folder: Where each node's output goes, a file each; None for this process's output.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        namespace: str = "",
        params_file: str = "",
        log_folder: Path | None = None,
    ) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._namespace = namespace
        self._params_file = params_file
        self._log_folder = log_folder
        self._scratch = tempfile.TemporaryDirectory(prefix="vla_bringup_")
        self._processes: dict[str, subprocess.Popen] = {}
        self._tries: dict[str, int] = dict.fromkeys(self._nodes, 0)
        self._started: dict[str, float] = {}
        self._restart_at: dict[str, float] = {}

    def __enter__(self) -> "GraphProcesses":
        for name in self._nodes:
            if self._log_folder is not None:
                (self._log_folder / f"{name}.log").unlink(missing_ok=True)
            self._start(name)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def pid(self, name: str) -> int:
        """Process id of the node ``name``."""
        return self._processes[name].pid

    def watch(self) -> list[str]:
        """Start dead processes again when their pause is over; returns what happened, in words."""
        events = []
        now = time.monotonic()
        for name, process in self._processes.items():
            status = process.poll()
            if status is None or self._tries[name] > RESPAWN_TRIES:
                continue
            if name not in self._restart_at:
                if now - self._started[name] > RESPAWN_WINDOW:
                    self._tries[name] = 0
                self._tries[name] += 1
                self._restart_at[name] = now + RESPAWN_DELAY
                last = self._tries[name] > RESPAWN_TRIES
                outlook = "not started again" if last else f"starting again in {RESPAWN_DELAY:g} s"
                events.append(f"{name} ended with status {status}: {outlook}")
            elif now >= self._restart_at[name]:
                del self._restart_at[name]
                self._start(name)
        return events

    def stop(self) -> None:
        """End everything in order; a process that does not end in time is killed."""
        order = [*reversed(self._nodes)]
        # The commander brakes when the lease ends; the arm has to be there until it has.
        for last in ("commander", "sim"):
            if last in order:
                order.append(order.pop(order.index(last)))
        for name in order:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._scratch.cleanup()

    def _start(self, name: str) -> None:
        self._started[name] = time.monotonic()
        node = self._nodes[name]
        file = Path(self._scratch.name) / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(node.parameters)}}))
        arguments = [
            "--ros-args",
            "-r",
            f"__ns:=/{self._namespace.strip('/')}",
        ]
        arguments += ["--params-file", str(file)]
        if self._params_file:
            arguments += ["--params-file", self._params_file]
        with self._output(name) as output:
            # A session of its own: Ctrl-C in a terminal reaches only this process, which then
            # ends the nodes in order.
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", node.module, *arguments],
                env=os.environ | node_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _output(self, name: str) -> IO:
        if self._log_folder is None:
            return os.fdopen(os.dup(sys.stderr.fileno()), "wb")
        self._log_folder.mkdir(parents=True, exist_ok=True)
        return (self._log_folder / f"{name}.log").open("ab")
