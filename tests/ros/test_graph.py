# SPDX-License-Identifier: Apache-2.0
"""The graph as a whole, in real processes over real DDS."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from graph_client import GraphClient
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory
from vla_interfaces.action import ExecuteTask

from vla_nodes.bringup.graph import BringupOptions
from vla_nodes.contract import Contract

RESULT = ExecuteTask.Result
TASK = "put the blue cube in the tray"
LEASE = 0.5  # s; the commander's default
HEARTBEAT = 1.0  # s; the supervisor's default
HORIZON = 0.8  # s; of the expert's chunks
BRAKING = 0.3  # s; the slowest joint from full speed, and a few ticks


def test_a_task_succeeds_within_the_limits(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        result = graph.client.execute(TASK)
        assert (result.outcome, result.message) == (RESULT.OUTCOME_SUCCESS, "done")
        assert result.final_value == 0.0
        assert {feedback.subtask for feedback in graph.client.feedback} - {""} == {TASK}
        graph.client.seconds_to_rest(time.monotonic())
        graph.client.check_limits(graph.contract)
        travelled = np.ptp([c.positions for c in graph.client.commands], axis=0)
        assert (travelled[:3] > 0.1).all()


def test_in_lock_step_the_table_is_cleared_and_laid_anew(launch: Callable) -> None:
    with launch(BringupOptions(lockstep=True)) as graph:
        graph.client.wait_until_ready()
        for seed in (3, 4):
            lying = graph.client.reset_simulation(seed, cubes=2)
            assert lying.count("cube") == 2
            result = graph.client.execute("clear the table", time_limit=40.0)
            assert result.outcome == RESULT.OUTCOME_SUCCESS, result.message


def test_requests_that_cannot_be_served_are_refused_in_words(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        for text, why in (
            ("", "1 to 512 characters"),
            ("x" * 10_000, "1 to 512 characters"),
            ("put the \x1b[31mred cube", "control characters"),
            ("dance", "unknown task 'dance'"),
        ):
            result = graph.client.execute(text)
            assert result.outcome == RESULT.OUTCOME_REJECTED
            assert why in result.message
        running = graph.client.start(TASK)
        graph.client.wait_until_moving()
        second = graph.client.execute(TASK)
        assert second.outcome == RESULT.OUTCOME_REJECTED
        assert "busy" in second.message
        assert graph.client.result(running, 60.0, "the first task ends").result.outcome == (
            RESULT.OUTCOME_SUCCESS
        )


def test_a_task_that_the_policy_cannot_do_here_ends_with_the_reason(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        lying = graph.client.reset_simulation(seed=0, cubes=1)
        absent = next(c for c in ("red", "green") if c not in lying)
        result = graph.client.execute(f"put the {absent} cube in the tray")
        assert result.outcome == RESULT.OUTCOME_ABORTED
        assert f"there is no {absent} cube" in result.message
        graph.client.wait_until_ready()
        assert graph.client.execute("clear the table").outcome == RESULT.OUTCOME_SUCCESS


def test_a_cancelled_task_leaves_the_robot_at_rest(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        since = time.monotonic()
        # The action client of the test cancels the goal it sent last.
        graph.client.cancel()
        assert graph.client.result(ending, 5.0, "it ends").result.outcome == (
            RESULT.OUTCOME_CANCELLED
        )
        assert graph.client.seconds_to_rest(since) < LEASE + BRAKING
        graph.client.check_limits(graph.contract)


def test_a_camera_that_stops_stops_the_robot_and_is_named(
    launch: Callable, wrist_elsewhere: Callable, contract: Contract
) -> None:
    # The graph sees the wrist camera through a relay that the test can close.
    with launch(*wrist_elsewhere(topic="/relayed/image")) as graph:
        node, is_open = graph.client.node, [True]
        out = node.create_publisher(Image, "/relayed/image", 1)

        def relay(message: Image) -> None:
            if is_open[0]:
                out.publish(message)

        node.create_subscription(Image, "/wrist/image", relay, 1)
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table", time_limit=15.0)
        graph.client.wait_until_moving()
        is_open[0] = False
        since = time.monotonic()
        stopped = graph.client.seconds_to_rest(since)
        assert stopped < HORIZON + contract.cameras[1].max_age + BRAKING
        graph.client.wait_until(
            lambda: "wrist is stale" in graph.client.message("policy"), 5.0, "wrist is named"
        )
        # The camera comes back within the task: the robot goes on.
        is_open[0] = True
        result = graph.client.result(ending, 60.0, "the task ends").result
        assert result.outcome in (RESULT.OUTCOME_SUCCESS, RESULT.OUTCOME_TIMED_OUT)
        moved = [c for c in graph.client.commands if c.sent > since + stopped + 0.5]
        assert any(np.any(c.velocities) for c in moved)
        graph.client.check_limits(graph.contract)


def test_a_killed_policy_stops_the_robot_ends_the_task_and_comes_back(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        since = time.monotonic()
        os.kill(graph.processes.pid("policy"), signal.SIGKILL)
        result = graph.client.result(ending, 10.0, "the task ends").result
        assert result.outcome == RESULT.OUTCOME_ABORTED
        assert "policy" in result.message
        assert graph.client.seconds_to_rest(since) < min(HORIZON, HEARTBEAT + 0.1) + BRAKING
        # Nothing moves by itself when it is back, but a new task is served.
        count = len(graph.client.commands)
        graph.client.wait_until_ready()
        assert not any(np.any(c.velocities) for c in graph.client.commands[count:])
        assert graph.client.execute(TASK, 40.0).outcome == RESULT.OUTCOME_SUCCESS
        graph.client.check_limits(graph.contract)


def test_a_killed_supervisor_takes_the_lease_with_it(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        graph.client.start("clear the table")
        graph.client.wait_until_moving()
        since = time.monotonic()
        os.kill(graph.processes.pid("supervisor"), signal.SIGKILL)
        assert graph.client.seconds_to_rest(since) < LEASE + BRAKING
        graph.client.wait_until_ready()
        assert graph.client.speed() == 0.0
        graph.client.check_limits(graph.contract)


def test_a_killed_commander_is_replaced_and_waits_for_a_new_task(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        os.kill(graph.processes.pid("commander"), signal.SIGKILL)
        killed = time.monotonic()
        result = graph.client.result(ending, 10.0, "the task ends").result
        assert result.outcome == RESULT.OUTCOME_ABORTED
        assert "commander" in result.message
        graph.client.wait_until_ready()
        later = [c for c in graph.client.commands if c.sent > killed + 0.1]
        assert later
        assert not any(np.any(c.velocities) for c in later)
        assert graph.client.execute(TASK).outcome == RESULT.OUTCOME_SUCCESS


def test_a_stopped_commander_cannot_hold_up_the_estop(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        graph.client.start("clear the table")
        graph.client.wait_until_moving()
        pid = graph.processes.pid("commander")
        os.kill(pid, signal.SIGSTOP)
        try:
            assert graph.client.estop(True).success
            assert graph.client.estop(True).success
            refused = graph.client.estop(False)
            assert (refused.success, refused.message) == (False, "the commander does not answer")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert any(graph.client.estop(False).success for _ in range(10))
        graph.client.wait_until_ready()


def test_an_estop_outlives_a_reconfiguration_of_the_commander(launch: Callable) -> None:
    with launch(BringupOptions(autostart=False)) as graph:
        client = graph.client
        for node, number in (
            *(
                ("sim", t)
                for t in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
            ),
            ("commander", Transition.TRANSITION_CONFIGURE),
        ):
            assert client.transition(node, number)

        def estop(pressed: bool) -> Any:
            return client.call(SetBool, "commander/estop", SetBool.Request(data=pressed))

        def activate() -> None:
            client.diagnostics.clear()
            client.wait_until(
                lambda: (
                    client.value("commander", "state") == "inactive"
                    and not client.message("commander").startswith("waiting")
                ),
                10.0,
                "joint states arrive",
            )
            assert client.transition("commander", Transition.TRANSITION_ACTIVATE)

        activate()
        assert estop(True).success
        for number in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            assert client.transition("commander", number)
        assert client.transition("commander", Transition.TRANSITION_CONFIGURE)
        activate()
        client.wait_until(
            lambda: client.value("commander", "motion") == "estopped", 5.0, "it is still pressed"
        )
        assert estop(False).success
        client.wait_until(lambda: client.value("commander", "motion") == "hold", 5.0, "it holds")


def test_in_lock_step_too_the_last_command_on_the_wire_is_at_rest(launch: Callable) -> None:
    with launch(BringupOptions(lockstep=True)) as graph:
        graph.client.wait_until_ready()
        graph.client.start("clear the table")
        graph.client.wait_until_moving()
        assert graph.client.transition("commander", Transition.TRANSITION_DEACTIVATE)
        graph.client.wait_until(lambda: graph.client.speed() == 0.0, 5.0, "it is at rest")
        graph.client.check_limits(graph.contract, simulated_time=True)


def test_a_frozen_policy_process_is_noticed(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        pid = graph.processes.pid("policy")
        os.kill(pid, signal.SIGSTOP)
        try:
            result = graph.client.result(ending, 10.0, "the task ends").result
            assert result.outcome == RESULT.OUTCOME_ABORTED
            assert "policy has been silent" in result.message
        finally:
            os.kill(pid, signal.SIGCONT)


def test_an_estop_brakes_at_once_and_latches_until_reset(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        since = time.monotonic()
        assert graph.client.estop(True).success
        result = graph.client.result(ending, 5.0, "the task ends").result
        assert (result.outcome, result.message) == (RESULT.OUTCOME_ABORTED, "e-stop")
        assert graph.client.seconds_to_rest(since) < 0.2 + BRAKING
        refused = graph.client.execute(TASK)
        assert refused.outcome == RESULT.OUTCOME_REJECTED
        assert "e-stop" in refused.message
        assert graph.client.estop(True).success
        assert graph.client.estop(False).success
        graph.client.wait_until_ready()
        assert graph.client.execute("clear the table", 40.0).outcome == RESULT.OUTCOME_SUCCESS
        graph.client.check_limits(graph.contract)


def test_a_button_stops_the_robot_and_only_its_release_allows_a_reset(launch: Callable) -> None:
    with launch() as graph:
        node = graph.client.node
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        button = node.create_publisher(Bool, "estop", 1)  # volatile, as most drivers publish
        graph.client.wait_until(lambda: button.get_subscription_count() > 0, 10.0, "it is heard")
        since = time.monotonic()
        button.publish(Bool(data=True))
        result = graph.client.result(ending, 5.0, "the task ends").result
        assert (result.outcome, result.message) == (RESULT.OUTCOME_ABORTED, "e-stop")
        assert graph.client.seconds_to_rest(since) < 0.2 + BRAKING
        refused = graph.client.estop(False)
        assert (refused.success, refused.message) == (False, "the e-stop is pressed")
        button.publish(Bool(data=False))
        # The release travels by topic and may come after the first request.
        assert any(graph.client.estop(False).success for _ in range(100))
        graph.client.wait_until_ready()


def test_a_second_publisher_of_commands_trips_and_is_named(launch: Callable) -> None:
    with launch() as graph:
        graph.client.wait_until_ready()
        ending = graph.client.start("clear the table")
        graph.client.wait_until_moving()
        topic = graph.contract.actions[0].topic
        intruder = graph.client.node.create_publisher(JointTrajectory, topic, 1)
        result = graph.client.result(ending, 10.0, "the task ends").result
        assert result.outcome == RESULT.OUTCOME_ABORTED
        assert f"/graph_client also publishes {topic}" in result.message
        graph.client.node.destroy_publisher(intruder)


def test_ctrl_c_ends_every_process_after_the_robot_has_stopped(
    domain: int, contract: Contract
) -> None:
    bringup = subprocess.Popen([sys.executable, "-m", "vla_nodes.bringup.main"])
    try:
        with GraphClient(domain, contract.actions[0].topic, contract.action_names) as client:
            client.wait_until_ready()
            client.start("clear the table")
            client.wait_until_moving()
            children = psutil.Process(bringup.pid).children(recursive=True)
            assert len(children) == 4
            bringup.send_signal(signal.SIGINT)
            assert bringup.wait(20.0) == 0
            _, alive = psutil.wait_procs(children, timeout=0.1)
            assert not alive
            assert client.speed() == 0.0
            client.check_limits(contract)
    finally:
        bringup.kill()


def test_nodes_do_not_outlive_a_killed_bringup(domain: int, contract: Contract) -> None:
    bringup = subprocess.Popen([sys.executable, "-m", "vla_nodes.bringup.main"])
    try:
        with GraphClient(domain, contract.actions[0].topic, contract.action_names) as client:
            client.wait_until_ready()
            children = psutil.Process(bringup.pid).children(recursive=True)
    finally:
        bringup.kill()
        bringup.wait()
    _, alive = psutil.wait_procs(children, timeout=10.0)
    assert not alive
