# SPDX-License-Identifier: Apache-2.0
"""``make demo``: start the graph on the simulated arm, send a task, show what happens.

Leaves a video and a plot of the run. Exits with 0 if the task succeeded.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
import tyro
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rich.console import Console
from vla_interfaces.action import ExecuteTask
from vla_interfaces.srv import ResetSimulation

from vla_nodes.bringup.graph import BringupOptions, find_contract, graph, share_folder
from vla_nodes.bringup.processes import GraphProcesses
from vla_nodes.contract import load_contract
from vla_nodes.display.joint_plot import plot_joints
from vla_nodes.display.terminal import render, summary_line
from vla_nodes.display.terminal_parts import shown
from vla_nodes.display.video import VideoWriter
from vla_nodes.nodes import topics
from vla_nodes.nodes.run_recorder import RunRecorder
from vla_nodes.sim.scene import JOINT_UNITS

START_TIMEOUT = 60.0  # s for the graph to come up
VIDEO_FPS = 20.0  # greater than the overview's rate, so that no picture is lost
OUTCOMES = {
    ExecuteTask.Result.OUTCOME_SUCCESS: "success",
    ExecuteTask.Result.OUTCOME_STALLED: "stalled",
    ExecuteTask.Result.OUTCOME_TIMED_OUT: "timed out",
    ExecuteTask.Result.OUTCOME_REJECTED: "rejected",
    ExecuteTask.Result.OUTCOME_ABORTED: "aborted",
    ExecuteTask.Result.OUTCOME_CANCELLED: "cancelled",
}


@dataclass(frozen=True)
class DemoOptions:
    """Show the whole graph at work on the simulated arm.

    Attributes:
        task: What to do, in words.
        seed: Of the table.
        cubes: How many of them lie on it.
        time_limit: Seconds that the task may take.
        output: Folder of the video, the plot and the nodes' logs.
    """

    task: str = "clear the table"
    seed: int = 7
    cubes: int = 3
    time_limit: float = 60.0
    output: Path = Path("demo_output")


class DemoError(RuntimeError):
    """The demo could not be carried out."""


class Demo:
    """One demo from start to end, in the process that watches."""

    def __init__(self, options: DemoOptions, video: VideoWriter) -> None:
        self._options = options
        self._console = Console()
        self._node = rclpy.create_node("demo")
        contract = load_contract(find_contract("sim_arm"))
        self._recorder = RunRecorder(self._node, contract, video, JOINT_UNITS, options.time_limit)
        self._tasks = ActionClient(self._node, ExecuteTask, topics.EXECUTE_TASK)
        self._reset = self._node.create_client(ResetSimulation, topics.RESET_SIMULATION)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)

    def run(self, processes: GraphProcesses) -> Any:
        """Carry the task out; returns its result.

        Raises:
            DemoError: The graph did not come up, or did not answer.
        """
        options = self._options
        self._spinner.start()
        with shown(self._console, render, summary_line) as show:

            def wait(what: str, ready: Callable[[], bool], timeout: float) -> None:
                end = time.monotonic() + timeout
                while not ready():
                    if time.monotonic() > end:
                        raise DemoError(f"{what}: not within {timeout:g} s")
                    for event in processes.watch():
                        self._console.print(event, markup=False)
                    show(self._recorder.view())
                    time.sleep(0.1)

            wait("the graph comes up", self._is_ready, START_TIMEOUT)
            table = ResetSimulation.Request(seed=options.seed, cubes=options.cubes)
            laid = self._reset.call_async(table)
            wait("the table is laid", laid.done, 10.0)
            if not laid.result().success:
                raise DemoError(laid.result().message)
            goal = ExecuteTask.Goal(task=options.task, time_limit=options.time_limit)
            self._recorder.begin(options.task)
            # The limit counts simulated seconds, which may pass more slowly than real ones.
            ended = self._executor.create_task(self._execute, goal)
            wait("the task ends", ended.done, 3 * options.time_limit + 10.0)
            result = ended.result()
            self._recorder.end(OUTCOMES[result.outcome])
            lingering = time.monotonic() + 1.0
            wait("the last pictures", lambda: time.monotonic() > lingering, 2.0)
        return result

    def close(self) -> None:
        """End the executor's thread; nothing is recorded afterwards."""
        self._executor.shutdown()
        self._spinner.join(5.0)
        self._node.destroy_node()

    def plot(self, path: Path) -> None:
        """Write the plot of commanded and measured joints."""
        plot_joints(self._recorder.joint_run(), path)

    def _is_ready(self) -> bool:
        """Whether the graph is up, and found by this process too."""
        found = self._tasks.server_is_ready() and self._reset.service_is_ready()
        return found and self._recorder.is_ready()

    async def _execute(self, goal: Any) -> Any:
        """Send the task and wait for its result, in the executor's thread.

        rclpy notes a request only after it is sent: from another thread the answer may come first.
        """
        handle = await self._tasks.send_goal_async(goal)
        return (await handle.get_result_async()).result

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()


def main() -> None:
    """Run the demo; exits with 1 if the task did not succeed."""
    options = tyro.cli(DemoOptions)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    logs = options.output / "logs"
    processes = GraphProcesses(
        graph(BringupOptions()),
        params_file=str(share_folder() / "config" / "demo.yaml"),
        log_folder=logs,
    )
    rclpy.init()
    video, plot = options.output / "episode.mp4", options.output / "joints.png"
    try:
        with VideoWriter(video, VIDEO_FPS) as writer:
            demo = Demo(options, writer)
            try:
                with processes:
                    result = demo.run(processes)
            finally:
                demo.close()
        demo.plot(plot)
    except DemoError as error:
        sys.exit(f"demo: {error}; the nodes' logs are in {logs}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
    finally:
        rclpy.try_shutdown()
    outcome = OUTCOMES[result.outcome]
    print(f"{options.task}: {outcome} after {result.elapsed:.1f} s ({result.message})")
    print(f"video: {video}\nplot:  {plot}")
    if result.outcome != ExecuteTask.Result.OUTCOME_SUCCESS:
        sys.exit(1)


if __name__ == "__main__":
    main()
