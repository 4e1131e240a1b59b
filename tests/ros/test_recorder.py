# SPDX-License-Identifier: Apache-2.0
"""The recorder over real DDS: alone beside publishers of the test, and in the whole graph."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import yaml
from builtin_interfaces.msg import Time
from graph_client import GraphClient
from lifecycle_msgs.msg import Transition
from mcap.exceptions import EndOfFile
from mcap.records import Message as MessageRecord
from mcap.stream_reader import StreamReader
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState
from vla_interfaces.action import ExecuteTask
from vla_interfaces.msg import Subtask, Task, TaskResult
from vla_interfaces.srv import StartRecording, StopRecording

from vla_nodes.bringup.graph import BringupOptions, NodeSpec
from vla_nodes.bringup.processes import GraphProcesses
from vla_nodes.nodes import qos
from vla_nodes.nodes.diagnostics import ERROR, WARN

CONTRACT = {
    "robot": "lonely",
    "fps": 10,
    "timeline": "header",
    "reference": "arm",
    "max_skew": 0.1,
    "cameras": {
        "front": {
            "topic": "/front/image",
            "type": "sensor_msgs/msg/Image",
            "encoding": "rgb8",
            "width": 8,
            "height": 8,
            "max_age": 0.2,
        }
    },
    "states": {
        "arm": {
            "topic": "/joint_states",
            "joints": ["joint"],
            "max_age": 0.1,
            "qos": {"reliability": "reliable"},
        }
    },
    "actions": {
        "arm": {
            "topic": "/command",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "joints": ["joint"],
            "limits": {
                "default": {"velocity": 1.0, "acceleration": 1.0},
                "joints": {"joint": {"position": [-1.0, 1.0]}},
            },
            "recorded": {"topic": "/leader", "type": "sensor_msgs/msg/JointState"},
        }
    },
}
STOP = StopRecording.Request
RESULT = ExecuteTask.Result
RELIABLE = QoSProfile(depth=1000)
STORE = get_typestore(Stores.ROS2_JAZZY)


class LonelyRecorder:
    """A recorder without a graph, and a client that publishes what it hears."""

    def __init__(self, processes: GraphProcesses, client: GraphClient, root: Path) -> None:
        self.processes = processes
        self.client = client
        self.root = root
        self.joints = client.node.create_publisher(JointState, "/joint_states", RELIABLE)
        self.leader = client.node.create_publisher(JointState, "/leader", RELIABLE)
        self.tasks = client.node.create_publisher(Task, "task", qos.NEWEST)
        self.results = client.node.create_publisher(TaskResult, "task_result", qos.LATCHED)
        self.subtasks = client.node.create_publisher(Subtask, "subtask", qos.LATCHED)

    def activate(self) -> None:
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert self.client.transition("recorder", transition)
        heard = (self.joints, self.leader, self.tasks, self.results, self.subtasks)
        self.client.wait_until(
            lambda: all(p.get_subscription_count() for p in heard), 10.0, "all is subscribed to"
        )

    def start(self, task: str = "") -> Any:
        return self.client.call(StartRecording, "recorder/start", StartRecording.Request(task=task))

    def stop(self, outcome: int) -> Any:
        return self.client.call(StopRecording, "recorder/stop", STOP(outcome=outcome))

    def publish_joints(self, numbers: range, padding: int = 5) -> list[bytes]:
        """One joint state for each number; returns the bytes that were sent."""
        kinds, name = STORE.types, "sensor_msgs/msg/JointState"
        header = kinds["std_msgs/msg/Header"](kinds["builtin_interfaces/msg/Time"](0, 0), "")
        empty = np.zeros(0)
        sent = []
        for number in numbers:
            message = kinds[name](header, ["x" * padding], np.array([float(number)]), empty, empty)
            sent.append(bytes(STORE.serialize_cdr(message, name)))
            self.joints.publish(sent[-1])
        return sent

    def wait_for(self, key: str, value: str) -> None:
        self.client.wait_until(
            lambda: self.client.value("recorder", key) == value, 20.0, f"{key} is {value}"
        )

    def wait_for_messages(self, count: int) -> None:
        self.client.wait_until(
            lambda: int(self.client.value("recorder", "messages") or 0) >= count,
            20.0,
            f"{count} messages have arrived",
        )

    def wait_until_written(self, megabytes: float) -> None:
        self.client.wait_until(
            lambda: float(self.client.value("recorder", "size_mb") or 0) >= megabytes,
            20.0,
            f"{megabytes} MB are written",
        )

    def wait_for_health(self, level: bytes, words: str) -> None:
        def holds() -> bool:
            found, message, _ = self.client.diagnostics.get("/recorder", (-1, "", {}))
            return found == int.from_bytes(level, "little") and words in message

        self.client.wait_until(holds, 20.0, f"'{words}' in diagnostics")

    def episodes(self) -> list[Path]:
        return sorted(self.root.iterdir())


@pytest.fixture
def recorder(domain: int, tmp_path: Path) -> Callable:
    """Starts a recorder alone: ``with recorder(auto=False) as it``."""

    @contextlib.contextmanager
    def start(module: str = "", **parameters: object) -> Iterator[LonelyRecorder]:
        contract, root, logs = (tmp_path / name for name in ("lonely.yaml", "root", "logs"))
        contract.write_text(yaml.safe_dump(CONTRACT))
        root.mkdir()
        given = {"contract": str(contract), "root": str(root), "min_free_mb": 0, **parameters}
        node = NodeSpec("recorder", given)
        if module:
            node = type("Other", (NodeSpec,), {"module": module})("recorder", given)
        client = GraphClient(domain, "/command", ("joint",))
        with client, GraphProcesses([node], log_folder=logs) as processes:
            try:
                yield LonelyRecorder(processes, client, root)
            except BaseException:
                print((logs / "recorder.log").read_text()[-4000:])
                raise

    return start


class Episode(NamedTuple):
    """What a folder holds, read by libraries that did not write it."""

    document: dict[str, Any]
    custom: dict[str, str]
    messages: dict[str, list[bytes]]
    objects: dict[str, list[Any]]


def read(folder: Path) -> Episode:
    information = yaml.safe_load((folder / "metadata.yaml").read_text())
    messages: dict[str, list[bytes]] = {}
    objects: dict[str, list[Any]] = {}
    with AnyReader([folder]) as bag:
        for connection, _, data in bag.messages():
            messages.setdefault(connection.topic, []).append(bytes(data))
            value = bag.deserialize(data, connection.msgtype)
            objects.setdefault(connection.topic, []).append(value)
    return Episode(
        json.loads((folder / "episode.json").read_text()),
        information["rosbag2_bagfile_information"]["custom_data"],
        messages,
        objects,
    )


def test_an_episode_is_begun_and_ended_by_service(recorder: Callable) -> None:
    with recorder(auto=False) as it:
        it.activate()
        it.tasks.publish(Task(goal=1, text="no episode without auto"))
        assert it.stop(STOP.OUTCOME_SUCCESS).message == "nothing is being recorded; the last: none"
        started = it.start("  stack the cups ")
        assert started.success, started.message
        (folder,) = it.episodes()
        assert started.message == str(folder)
        refused = it.start("again")
        assert not refused.success
        assert refused.message == f"{folder.name} is being recorded; stop that first"
        sent = it.publish_joints(range(500))
        it.wait_for_messages(500)
        stopped = it.stop(STOP.OUTCOME_SUCCESS)
        assert stopped.success
        assert f"{folder.name}: success, " in stopped.message
        assert "500 messages" in stopped.message
        assert "nothing arrived on /front/image, /leader" in stopped.message

        episode = read(folder)
        assert episode.messages["/joint_states"] == sent
        assert episode.objects["/joint_states"][7].position.tolist() == [7.0]
        assert episode.custom["task"] == "stack the cups"
        assert episode.custom["outcome"] == "success"
        assert episode.custom["contract"] == "lonely"
        assert episode.document["missing"] == ["/front/image", "/leader"]
        assert episode.document["topics"]["/joint_states"]["dropped"] == 0

        # One that went wrong leaves nothing behind.
        assert it.start().success
        it.publish_joints(range(5))
        assert ": discarded, " in it.stop(STOP.OUTCOME_DISCARD).message
        assert it.episodes() == [folder]
        for task, why in (("x" * 513, "512 characters"), ("a\x1b[31mb", "control characters")):
            assert why in it.start(task).message


def test_a_topic_that_never_arrives_is_named_and_so_is_one_of_another_type(
    recorder: Callable,
) -> None:
    with recorder() as it:
        it.activate()
        other = it.client.node.create_publisher(CompressedImage, "/front/image", 1)
        assert it.start().success
        it.publish_joints(range(1))
        words = "nothing from /front/image: it is published as sensor_msgs/msg/CompressedImage"
        it.wait_for_health(WARN, words)
        it.wait_for_health(WARN, "nothing from /leader: it is silent")
        del other


def test_a_goal_is_an_episode_whose_outcome_is_its_result(recorder: Callable) -> None:
    cases = (
        (RESULT.OUTCOME_SUCCESS, "success"),
        (RESULT.OUTCOME_ABORTED, "failure"),
        (RESULT.OUTCOME_CANCELLED, "unknown"),
    )
    with recorder() as it:
        it.activate()
        for goal, (outcome, word) in enumerate(cases, start=1):
            lease = Task(goal=goal, text=f"task {goal}")
            it.subtasks.publish(Subtask(goal=goal, subtask=f"part {goal}"))
            timer = it.client.node.create_timer(0.05, lambda: it.tasks.publish(lease))  # noqa: B023
            it.wait_for("task", lease.text)
            it.wait_for_messages(5)
            it.results.publish(TaskResult(goal=goal, outcome=outcome, message="so it\x07 is"))
            it.wait_for("recording", "")
            # The lease goes on for a moment; the goal is not begun again.
            it.client.node.destroy_timer(timer)
            it.client.wait_until(
                lambda: f": {word}, " in it.client.value("recorder", "last"),  # noqa: B023
                10.0,
                word,
            )
            episode = read(it.episodes()[-1])
            assert len(it.episodes()) == goal
            assert (episode.custom["task"], episode.custom["outcome"]) == (lease.text, word)
            assert episode.custom["reason"] == "so it\\x07 is"
            assert {m.text for m in episode.objects["/task"]} == {lease.text}
            assert [m.subtask for m in episode.objects["/subtask"]] == [f"part {goal}"]
            assert [m.outcome for m in episode.objects["/task_result"]] == [outcome]

        # One whose lease ends without a result.
        it.tasks.publish(Task(goal=7, text="wait"))
        it.wait_for("task", "wait")
        it.wait_for("recording", "")
        it.client.wait_until(lambda: "unknown" in it.client.value("recorder", "last"), 10.0, "end")
        custom = read(it.episodes()[-1]).custom
        assert (custom["task"], custom["outcome"]) == ("wait", "unknown")
        assert custom["reason"] == "the result of the task was not heard"

        # A goal on the heels of another.
        for goal in range(10, 14):
            lease = Task(goal=goal, text=f"quick {goal}")
            it.tasks.publish(lease)
            timer = it.client.node.create_timer(0.05, lambda: it.tasks.publish(lease))  # noqa: B023
            it.wait_for("task", lease.text)
            it.client.node.destroy_timer(timer)
            it.results.publish(TaskResult(goal=goal, outcome=RESULT.OUTCOME_SUCCESS))
        # An episode is begun by hand at once, too.
        assert it.start("at once").success
        assert it.stop(STOP.OUTCOME_DISCARD).success
        customs = [read(folder).custom for folder in it.episodes()[-4:]]
        assert [(c["task"], c["outcome"]) for c in customs] == [
            (f"quick {goal}", "success") for goal in range(10, 14)
        ]

        # Within an episode that was begun by hand goals are left alone.
        assert it.start("by hand").success
        it.tasks.publish(Task(goal=18, text="eighteen"))
        it.results.publish(TaskResult(goal=18, outcome=RESULT.OUTCOME_SUCCESS))
        it.wait_for("task", "by hand")
        it.wait_for_messages(2)
        assert it.stop(STOP.OUTCOME_FAILURE).success
        custom = read(it.episodes()[-1]).custom
        assert (custom["task"], custom["outcome"]) == ("by hand", "failure")


def test_a_recorder_that_was_held_up_still_hears_how_the_goal_ended(recorder: Callable) -> None:
    with recorder() as it:
        it.activate()
        sent: list[Task] = []

        def renew_lease() -> None:
            sent.append(Task(goal=1, text="wait"))
            it.tasks.publish(sent[-1])

        it.client.node.create_timer(0.05, renew_lease)
        it.wait_for("task", "wait")
        process = psutil.Process(it.processes.pid("recorder"))
        process.suspend()
        enough = len(sent) + 60
        it.client.wait_until(lambda: len(sent) > enough, 10.0, "the lease of 3 s is on the wire")
        joints = it.publish_joints(range(50))
        it.results.publish(TaskResult(goal=1, outcome=RESULT.OUTCOME_SUCCESS))
        process.resume()
        it.client.wait_until(lambda: it.client.value("recorder", "last"), 10.0, "it is closed")
        episode = read(it.episodes()[0])
        assert episode.custom["outcome"] == "success"
        # What came before the result is there, however late it was heard.
        assert episode.messages["/joint_states"] == joints


def test_messages_that_never_arrive_are_counted(recorder: Callable) -> None:
    with recorder(auto=False) as it:
        it.activate()
        assert it.start().success
        it.publish_joints(range(1))
        it.wait_for_messages(1)
        process = psutil.Process(it.processes.pid("recorder"))
        process.suspend()
        # More than the middleware keeps for one that does not listen.
        it.publish_joints(range(1, 3001))
        process.resume()
        it.wait_for_messages(3001)
        it.wait_for_health(WARN, "messages of /joint_states were dropped")
        assert "dropped: /joint_states" in it.stop(STOP.OUTCOME_SUCCESS).message
        episode = read(it.episodes()[0])
        figures = episode.document["topics"]["/joint_states"]
        assert figures["messages"] == len(episode.messages["/joint_states"]) < 3001
        assert figures["messages"] + figures["dropped"] == 3001


def test_an_episode_ends_where_simulated_time_goes_back(recorder: Callable) -> None:
    with recorder(use_sim_time=True) as it:
        clock = it.client.node.create_publisher(Clock, "/clock", 10)
        seconds = [100]
        it.client.node.create_timer(0.02, lambda: clock.publish(Clock(clock=Time(sec=seconds[0]))))
        assert it.client.transition("recorder", Transition.TRANSITION_CONFIGURE)
        it.client.wait_until(
            lambda: it.client.message("recorder") == "ok", 20.0, "it hears of simulated time"
        )
        assert it.client.transition("recorder", Transition.TRANSITION_ACTIVATE)
        for begin in (100, 99):
            assert it.start().success
            it.publish_joints(range(10))
            it.wait_for_messages(10)
            seconds[0] = begin - 1
            it.client.wait_until(
                lambda: (
                    "time went back" in it.client.value("recorder", "last")
                    and not it.client.value("recorder", "recording")
                ),
                10.0,
                "it is ended",
            )
            with Reader(it.episodes()[-1]) as bag:
                assert {stamp for _, stamp, _ in bag.messages()} == {begin * 10**9}


def test_an_episode_is_closed_when_the_recorder_ends(recorder: Callable) -> None:
    with recorder() as it:
        it.activate()
        process = psutil.Process(it.processes.pid("recorder"))
        for end in ("deactivate", "interrupt"):
            assert it.start(end).success
            sent = it.publish_joints(range(50))
            it.wait_for("task", end)
            it.wait_for_messages(50)
            if end == "deactivate":
                assert it.client.transition("recorder", Transition.TRANSITION_DEACTIVATE)
                assert it.start().message == "the recorder is not active"
                assert it.client.transition("recorder", Transition.TRANSITION_ACTIVATE)
            else:
                process.send_signal(signal.SIGINT)
                process.wait(20.0)
            episode = read(it.episodes()[-1])
            assert episode.messages["/joint_states"] == sent
            assert (episode.custom["task"], episode.custom["outcome"]) == (end, "unknown")
            assert episode.custom["reason"] == "the recorder was deactivated"


def test_a_killed_recorder_leaves_what_was_flushed(recorder: Callable) -> None:
    with recorder() as it:
        it.activate()
        assert it.start("wait").success
        it.publish_joints(range(100))
        it.wait_until_written(100 * 60e-6)
        os.kill(it.processes.pid("recorder"), signal.SIGKILL)
        (folder,) = it.episodes()
        assert json.loads((folder / "episode.json").read_text())["state"] == "recording"
        with (folder / f"{folder.name}_0.mcap").open("rb") as stream:
            numbers = 0
            with contextlib.suppress(EndOfFile):
                for record in StreamReader(stream, validate_crcs=True).records:
                    numbers += isinstance(record, MessageRecord)
        assert numbers == 100


def test_a_folder_that_cannot_be_used_is_refused_and_can_be_mended(
    recorder: Callable, tmp_path: Path
) -> None:
    def set_root(root: str) -> bool:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=root)
        request = SetParameters.Request(parameters=[Parameter(name="root", value=value)])
        response = it.client.call(SetParameters, "recorder/set_parameters", request)
        return response.results[0].successful

    with recorder(root="/no/such/folder") as it:
        for root, words in (
            ("/no/such/folder", "'/no/such/folder'; it must be a folder that exists"),
            ("", "''; it must be a folder that exists"),
            ("/proc", "'/proc', which cannot be written to: "),
        ):
            assert set_root(root)
            assert not it.client.transition("recorder", Transition.TRANSITION_CONFIGURE)
            it.wait_for_health(ERROR, words)
        assert set_root(str(tmp_path))
        assert it.client.transition("recorder", Transition.TRANSITION_CONFIGURE)


def test_a_full_disk_ends_the_episode_with_an_event_and_leaves_a_bag(recorder: Callable) -> None:
    with recorder() as it:
        it.activate()
        assert it.start("fill it").success
        it.publish_joints(range(100))
        it.wait_until_written(100 * 60e-6)
        # A limit on the size of files is to a writer what a full disk is.
        process = psutil.Process(it.processes.pid("recorder"))
        soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (300_000, hard))
        it.publish_joints(range(100, 120), padding=20_000)
        it.wait_for_health(ERROR, "File too large")
        (folder,) = it.episodes()
        episode = read(folder)
        assert episode.custom["outcome"] == "unknown"
        assert "File too large" in episode.custom["reason"]
        numbers = [message.position[0] for message in episode.objects["/joint_states"]]
        assert numbers == list(range(len(numbers)))
        figures = episode.document["topics"]["/joint_states"]
        assert figures["messages"] == len(numbers)
        assert figures["messages"] + figures["dropped"] <= 120
        assert "File too large" in it.stop(STOP.OUTCOME_SUCCESS).message
        # There is room again.
        process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
        assert it.start().success
        it.wait_for_health(WARN, "nothing from")
        assert it.stop(STOP.OUTCOME_DISCARD).success


def test_a_file_that_does_not_grow_is_an_error_and_what_is_dropped_is_counted(
    recorder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = tmp_path / "stall"
    monkeypatch.setenv("STALL", str(stall))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with recorder(module="stalling_recorder", queue_mb=1) as it:
        it.activate()
        assert it.start("wait").success
        stall.touch()
        it.publish_joints(range(10))
        it.client.wait_until(stall.with_suffix(".reached").exists, 10.0, "the disk stalls")
        it.publish_joints(range(10, 30), padding=100_000)
        it.wait_for_health(ERROR, "has not grown for")
        it.wait_for_messages(30)
        assert it.client.value("recorder", "dropped") == "11"
        stall.unlink()
        it.wait_for_health(WARN, "11 messages of /joint_states were dropped")
        stopped = it.stop(STOP.OUTCOME_SUCCESS)
        assert "dropped: /joint_states 11" in stopped.message
        episode = read(it.episodes()[0])
        assert [m.position[0] for m in episode.objects["/joint_states"]] == list(range(19))
        assert episode.document["topics"]["/joint_states"]["dropped"] == 11

        # Where an episode cannot be begun in time, none is.
        stall.touch()
        started = it.start("wait")
        assert not started.success
        assert started.message == "the new episode: the disk has not answered yet"
        it.wait_for("recording", "")
        stall.unlink()
        it.client.wait_until(
            lambda: ": discarded, " in it.client.value("recorder", "last"), 10.0, "it is given up"
        )
        assert len(it.episodes()) == 1


def test_the_graph_records_its_goals_and_does_not_need_the_recorder(
    launch: Callable, tmp_path: Path
) -> None:
    root = tmp_path / "episodes"
    root.mkdir()
    heard: list[bytes] = []
    with launch(BringupOptions(record=str(root)), {"recorder": {"min_free_mb": 0}}) as graph:
        client = graph.client
        client.node.create_subscription(
            JointState, "/joint_states", heard.append, RELIABLE, raw=True
        )
        client.wait_until_ready()
        client.wait_until(lambda: client.value("recorder", "state") == "active", 20.0, "active")
        client.reset_simulation(seed=2, cubes=1)
        result = client.execute("clear the table")
        assert result.outcome == RESULT.OUTCOME_SUCCESS
        client.wait_until(lambda: client.value("recorder", "last"), 10.0, "it is recorded")
        (folder,) = root.iterdir()
        episode = read(folder)
        assert episode.custom["task"] == "clear the table"
        assert (episode.custom["outcome"], episode.custom["reason"]) == ("success", "done")
        assert episode.document["missing"] == []
        assert any("cube" in message.subtask for message in episode.objects["/subtask"])
        assert [m.message for m in episode.objects["/task_result"]] == ["done"]
        assert len(episode.messages["/chunk"]) > 10
        # Every joint state in between, byte for byte.
        recorded = episode.messages["/joint_states"]
        first = heard.index(recorded[0])
        assert heard[first : first + len(recorded)] == recorded
        with Reader(folder) as bag:
            span = (bag.end_time - bag.start_time) * 1e-9
        assert abs(span - result.elapsed) < 1.0

        client.reset_simulation(seed=3, cubes=1)
        ending = client.start("clear the table")
        client.wait_until(lambda: client.value("recorder", "recording"), 10.0, "it records")
        os.kill(graph.processes.pid("recorder"), signal.SIGKILL)
        client.wait_until(lambda: "recorder" in client.message("supervisor"), 10.0, "it is named")
        assert client.result(ending, 60.0, "the goal ends").result.outcome == (
            RESULT.OUTCOME_SUCCESS
        )
        assert client.value("supervisor", "ready") == "True"
