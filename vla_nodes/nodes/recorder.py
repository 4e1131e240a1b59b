# SPDX-License-Identifier: Apache-2.0
"""The recorder: writes what the graph sees and does as episodes of serialized messages.

Callbacks only count and hand over bytes: a thread writes them, and no disk, however slow or full,
holds anything else up. The robot does not depend on this node.
"""

import importlib
import tempfile
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from vla_interfaces.action import ExecuteTask
from vla_interfaces.msg import Subtask, Task, TaskResult
from vla_interfaces.srv import StartRecording, StopRecording

from vla_nodes.contract import Qos, contract_digest, load_contract
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.diagnostics import OK, WARN, Health
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.parameters import ParameterError
from vla_nodes.nodes.process import run_node
from vla_nodes.nodes.recorder_parameters import RecorderParameters
from vla_nodes.recording.code_version import code_version
from vla_nodes.recording.definitions import Definitions
from vla_nodes.recording.episode_writer import Options
from vla_nodes.recording.episodes import Episodes, summary
from vla_nodes.recording.errors import RecordingError, one_line
from vla_nodes.recording.mcap_file import Channel
from vla_nodes.recording.receipt_clock import steady_wall_clock
from vla_nodes.recording.report import Outcome
from vla_nodes.recording.streams import DEPTH, Stream, contract_streams
from vla_nodes.recording.writing_thread import Recording, WritingThread

TICK = 0.05  # s
GRACE = 2.0  # s of an episode before a silent topic is named
# A goal is over so many ticks after its last lease, or after its result: messages from before may
# still be on their way. They are counted, for a process that was held up finds its timer first.
LEASE_TICKS, RESULT_TICKS = 40, 4
CLOSING = 5.0  # s that a service or a transition waits for the disk
MAX_TASK_LENGTH = 512  # characters, as in StartRecording.srv
MEGABYTE = 1_000_000

# What has arrived at one time is looked at in this order: how a goal ended before the next one.
_OWN_TOPICS = {
    topics.TASK_RESULT: "TaskResult",
    topics.TASK: "Task",
    topics.SUBTASK: "Subtask",
    topics.CHUNK: "ActionChunk",
    topics.VALUE: "ValueEstimate",
}
_LATCHED = (topics.SUBTASK, topics.TASK_RESULT)
_Info = dict[str, int | None]  # what the middleware says of a message
_OUTCOMES: dict[int, Outcome] = {
    ExecuteTask.Result.OUTCOME_SUCCESS: "success",
    ExecuteTask.Result.OUTCOME_STALLED: "failure",
    ExecuteTask.Result.OUTCOME_TIMED_OUT: "failure",
    ExecuteTask.Result.OUTCOME_ABORTED: "failure",
    ExecuteTask.Result.OUTCOME_CANCELLED: "unknown",
}
_UNHEARD: tuple[Outcome, str] = ("unknown", "the result of the task was not heard")
_ASKED: dict[int, Outcome] = {
    StopRecording.Request.OUTCOME_UNKNOWN: "unknown",
    StopRecording.Request.OUTCOME_SUCCESS: "success",
    StopRecording.Request.OUTCOME_FAILURE: "failure",
    StopRecording.Request.OUTCOME_DISCARD: "discard",
}


class Recorder(ManagedNode[RecorderParameters]):
    """The lifecycle node; see the module."""

    def __init__(self) -> None:
        super().__init__("recorder", RecorderParameters)
        self._writing: WritingThread | None = None
        self._awaited: list[tuple[Callable[[], bool], float, Future]] = []
        self._goal = 0  # that the present episode is of; 0 for one that was begun by hand
        self._last_goal = 0  # the greatest that an episode was begun for, or whose result is known
        self._lease = Task()
        self._result: tuple[Outcome, str] | None = None  # of that goal, when it is known
        self._ticks_left = 0
        self._subtask: tuple[int, bytes] | None = None

    # --- lifecycle ------------------------------------------------------------------------

    def configure(self, parameters: RecorderParameters) -> None:
        """Subscribe to everything, and start the thread that writes."""
        root = _usable_root(parameters.root)
        contract = load_contract(parameters.contract)
        self._streams = (*self._graph_streams(), *contract_streams(contract))
        try:
            definitions = Definitions()
            channels = [Channel(s.topic, s.type, definitions.of(s.type)) for s in self._streams]
        except RecordingError as error:
            raise ParameterError(f"contract: {error}") from error
        options = Options(
            compress=parameters.compression == "zstd",
            split_size=parameters.split_size_mb * MEGABYTE,
            min_free=parameters.min_free_mb * MEGABYTE,
        )
        capacity = parameters.queue_mb * MEGABYTE
        self._writing = WritingThread(root, self._streams, channels, options, capacity)
        version = code_version(Path(__file__).resolve().parents[2])
        digest = contract_digest(contract)
        self._episodes = Episodes(self._writing, contract.robot, digest, version)
        self._simulated: bool = self.get_parameter("use_sim_time").value
        self._receipt_clock = self.ros_now if self._simulated else steady_wall_clock()
        self._subscribe_all()
        # While one of them waits for the disk, all else goes on.
        own = ReentrantCallbackGroup()
        self.create_service(StartRecording, "~/start", self._on_start, callback_group=own)
        self.create_service(StopRecording, "~/stop", self._on_stop, callback_group=own)
        self.steady_timer(TICK, self._tick)

    def waiting_for(self) -> str:
        """Simulated time, without which nothing can be dated."""
        return "/clock" if self._simulated and not self.ros_now() else ""

    def deactivate(self) -> None:
        """End the episode, and wait until it is closed."""
        if self._episodes.current is not None:
            self._finish(*self._result or ("unknown", "the recorder was deactivated"))
        late = self._episodes.wait(CLOSING)
        self._tell_closed()
        for _, _, future in self._awaited:
            future.set_result(None)
        for recording in late:
            self.get_logger().error(f"{recording.name} could not be closed in time")

    def cleanup(self) -> None:
        """End the thread; one that hangs in the disk is left behind."""
        self._awaited.clear()
        if self._writing is not None:
            self._writing.close(timeout=1.0)
            self._writing = None

    def working_fault(self) -> str:
        """What keeps episodes from being recorded."""
        return self._episodes.fault()

    def health(self) -> Health:
        """What is being recorded, what is missing and what was dropped."""
        assert self._writing is not None
        recording = self._episodes.current
        values: dict[str, object] = {"recording": "", "queue_mb": self._writing.queued / 1e6}
        problems = []
        if recording is not None:
            values |= {
                "recording": recording.name,
                "task": recording.facts.task,
                "messages": sum(recording.received),
                "size_mb": recording.size / 1e6,
                "dropped": sum(recording.dropped),
            }
            if time.monotonic() - recording.begun > GRACE:
                problems += self._silent(recording)
            for stream, dropped in zip(self._streams, recording.dropped, strict=True):
                if dropped:
                    problems.append(f"{dropped} messages of {stream.topic} were dropped")
        values["last"] = self._episodes.last
        return Health(WARN if problems else OK, "; ".join(problems) or "ok", values)

    def _silent(self, recording: Recording) -> list[str]:
        """Needed topics from which nothing has arrived, and why."""
        silent = []
        for stream, received in zip(self._streams, recording.received, strict=True):
            if stream.needed and not received:
                kinds = {i.topic_type for i in self.get_publishers_info_by_topic(stream.topic)}
                why = "it is silent" if kinds else "nobody publishes it"
                if others := kinds - {stream.type}:
                    why = f"it is published as {', '.join(sorted(others))}"
                silent.append(f"nothing from {stream.topic}: {why}")
        return silent

    # --- episodes -----------------------------------------------------------------------------

    def _begin(self, task: str, goal: int) -> Recording:
        if not self._simulated:
            self._receipt_clock = steady_wall_clock()
        self._goal, self._result, self._ticks_left = goal, None, LEASE_TICKS
        recording = self._episodes.begin(task)
        # A subtask from before the beginning is still in force.
        if self._subtask is not None:
            channel, data = self._subtask
            if deserialize_message(data, Subtask).goal == self._lease.goal:
                self._put(channel, data)
        return recording

    def _finish(self, outcome: Outcome, reason: str) -> Recording:
        self._goal, self._result = 0, None
        return self._episodes.finish(outcome, reason)

    def _tick(self) -> None:
        self.progress += 1
        now = time.monotonic()
        self._tell_closed()
        self._ticks_left -= 1
        if self._goal and self._ticks_left < 0:
            self._finish(*self._result or _UNHEARD)
        current = self._episodes.current
        if current is not None and self._receipt_clock() < current.newest:
            self._finish("unknown", "simulated time went back")
        for holds, until, future in self._awaited:
            if holds() or now > until:
                future.set_result(None)
        self._awaited = [entry for entry in self._awaited if not entry[2].done()]

    def _tell_closed(self) -> None:
        for recording in self._episodes.look():
            if recording.failure:
                self.get_logger().error(summary(recording))
            else:
                self.get_logger().info(summary(recording))
        if self._episodes.current is None:
            self._goal, self._result = 0, None

    # --- what arrives ---------------------------------------------------------------------------

    def _graph_streams(self) -> tuple[Stream, ...]:
        """The graph's own topics, in the order of ``_OWN_TOPICS``."""
        reliable = Qos("reliable", DEPTH)
        return tuple(
            Stream(self.resolve_topic_name(name), f"vla_interfaces/msg/{kind}", reliable, False)
            for name, kind in _OWN_TOPICS.items()
        )

    def _subscribe_all(self) -> None:
        latched = {self.resolve_topic_name(name) for name in _LATCHED}
        self._numbers: list[int | None] = [None] * len(self._streams)  # of the newest messages
        callbacks = {
            self.resolve_topic_name(topics.TASK): self._on_task,
            self.resolve_topic_name(topics.TASK_RESULT): self._on_result,
            self.resolve_topic_name(topics.SUBTASK): self._on_subtask,
        }
        for channel, stream in enumerate(self._streams):
            package, _, kind = stream.type.split("/")
            profile = qos.profile(
                stream.qos.depth,
                reliable=stream.qos.reliability == "reliable",
                latched=stream.topic in latched,
            )
            self.subscribe(
                getattr(importlib.import_module(f"{package}.msg"), kind),
                stream.topic,
                partial(callbacks.get(stream.topic, self._on_data), channel),
                profile,
                raw=True,
            )

    def _on_data(self, channel: int, data: bytes, info: _Info) -> None:
        self._count_lost(channel, info["publication_sequence_number"])
        self._put(channel, data)

    def _put(self, channel: int, data: bytes) -> None:
        self._episodes.put(channel, self._receipt_clock(), data)

    def _count_lost(self, channel: int, number: int | None) -> None:
        """Count what was sent and has not arrived; several senders number on their own."""
        before, self._numbers[channel] = self._numbers[channel], number
        lost = 0 if before is None or number is None else number - before - 1
        if lost > 0 and self.count_publishers(self._streams[channel].topic) == 1:
            self._episodes.lose(channel, lost)

    def _on_task(self, channel: int, data: bytes, info: _Info) -> None:
        self._lease = deserialize_message(data, Task)
        goal = self._lease.goal
        if goal and goal == self._goal:
            self._ticks_left = self._ticks_left if self._result else LEASE_TICKS
        elif goal > self._goal > 0:
            self._finish(*self._result or _UNHEARD)
        # Goals grow, and one that is over never comes back.
        wanted = self.is_active and self.parameters.auto and goal > self._last_goal
        if wanted and self._episodes.current is None:
            self._last_goal = goal
            self._begin(one_line(self._lease.text), goal)
        self._on_data(channel, data, info)

    def _on_result(self, channel: int, data: bytes, info: _Info) -> None:
        self._on_data(channel, data, info)
        result = deserialize_message(data, TaskResult)
        self._last_goal = max(self._last_goal, result.goal)
        if result.goal and result.goal == self._goal:
            self._result = _OUTCOMES.get(result.outcome, "unknown"), result.message
            self._ticks_left = RESULT_TICKS

    def _on_subtask(self, channel: int, data: bytes, info: _Info) -> None:
        self._subtask = (channel, data)
        self._on_data(channel, data, info)

    # --- services -----------------------------------------------------------------------------

    async def _on_start(self, request: Any, response: Any) -> Any:
        if self._result is not None:
            self._finish(*self._result)
        if refusal := self._refusal(request.task):
            response.success, response.message = False, refusal
            return response
        recording = self._begin(request.task.strip(), goal=0)
        await self._until(lambda: recording.folder is not None or recording.ended.is_set())
        response.success = recording.folder is not None
        response.message = str(recording.folder) if response.success else summary(recording)
        if not response.success and self._episodes.current is recording:
            self._finish("discard", "")
        return response

    def _refusal(self, task: str) -> str:
        """Why an episode cannot be begun; empty when it can."""
        if not self.is_active:
            return "the recorder is not active"
        if self._episodes.current is not None:
            return f"{self._episodes.current.name} is being recorded; stop that first"
        if len(task) > MAX_TASK_LENGTH:
            return f"the task may have {MAX_TASK_LENGTH} characters; it has {len(task)}"
        if any(unicodedata.category(character) == "Cc" for character in task.strip()):
            return "the task contains control characters"
        return ""

    async def _on_stop(self, request: Any, response: Any) -> Any:
        response.success = False
        if self._episodes.current is None:
            last = self._episodes.last or "none"
            response.message = f"nothing is being recorded; the last: {last}"
            return response
        if request.outcome not in _ASKED:
            response.message = f"outcome {request.outcome} is none of 0 to {max(_ASKED)}"
            return response
        recording = self._finish(_ASKED[request.outcome], "")
        await self._until(recording.ended.is_set)
        response.success = recording.report is not None and not recording.failure
        response.message = summary(recording)
        return response

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait for the thread that writes, with a bound."""
        future = Future()
        self._awaited.append((holds, time.monotonic() + CLOSING, future))
        await future


def _usable_root(text: str) -> Path:
    """The folder of the episodes.

    Raises:
        ParameterError: It is not there, or nothing can be written to it.
    """
    root = Path(text).expanduser()
    if not text or not root.is_dir():
        raise ParameterError(f"parameter 'root' is '{text}'; it must be a folder that exists")
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        why = f"which cannot be written to: {error.strerror}"
        raise ParameterError(f"parameter 'root' is '{text}', {why}") from error
    return root.resolve()


def main() -> None:
    """Entry point of the process."""
    run_node(Recorder)


if __name__ == "__main__":
    main()
