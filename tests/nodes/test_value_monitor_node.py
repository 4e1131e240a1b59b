# SPDX-License-Identifier: Apache-2.0
"""The value monitor, one step at a time; pictures and the value function are the test's own."""

import math
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import Image
from vla_interfaces.msg import ActionChunk, Subtask, Task, ValueEstimate

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.nodes import value_monitor as module
from vla_nodes.nodes.diagnostics import OK, WARN
from vla_nodes.nodes.parameters import ParameterError
from vla_nodes.nodes.stamps import nanoseconds, time_message
from vla_nodes.nodes.value_estimator import estimate_period
from vla_nodes.nodes.value_monitor import ValueMonitor, pictures_only
from vla_nodes.nodes.value_monitor_parameters import (
    ValueMonitorParameters,
    check_contents,
    event_settings,
    load_runtime,
)
from vla_nodes.observation.codecs import fill_image

SECOND = 10**9
ATOMS = np.linspace(-1.0, 0.0, 201)
HISTORY, STEP = 3, 0.4


class FakeRuntime:
    """Its value is the brightness of the newest picture, from -1 for black; a subtask's is 0."""

    cameras = ("wrist", "front")

    def __init__(self) -> None:
        self.checkpoint = SimpleNamespace(
            config=SimpleNamespace(history=HISTORY, history_step=STEP),
            interface=SimpleNamespace(tasks=("tidy",), cameras=self.cameras),
        )
        self.seen: list[tuple[dict[str, list[int]], list[str]]] = []
        self.error: Exception | None = None

    def encode(self, pictures: Sequence[np.ndarray]) -> list[int]:
        return [int(picture[0, 0, 0]) for picture in pictures]

    def estimate(self, views: Mapping[str, Sequence[int]], texts: Sequence[str]) -> np.ndarray:
        if self.error:
            raise self.error
        self.seen.append(({name: list(frames) for name, frames in views.items()}, list(texts)))
        rows = np.zeros((len(texts), 201), np.float32)
        rows[0, round(views["front"][-1] * 200 / 255)] = 1.0
        rows[1:, 200] = 1.0
        return rows


@dataclass
class Rig:
    """A configured node, whose estimates land in a list, and the time that it sees."""

    node: ValueMonitor
    runtime: FakeRuntime
    values: list[ValueEstimate]
    now: int = 100 * SECOND

    def __post_init__(self) -> None:
        self.node.ros_now = lambda: self.now  # type: ignore[method-assign]
        self.stop = threading.Event()

    def give(self, goal: int, text: str = "tidy") -> None:
        self.node._on_task(Task(goal=goal, text=text))

    def picture(self, name: str, brightness: int, **changes: Any) -> None:
        message = Image()
        message.header.stamp = time_message(self.now)
        fill_image(message, np.full((96, 96, 3), brightness, np.uint8))
        for field, value in changes.items():
            setattr(message, field, value)
        self.node._on_image(name, message)

    def pictures(self, brightness: int, seconds: float = 0.2) -> None:
        """Time goes on, both cameras show it, and the node takes a step."""
        self.now += round(seconds * SECOND)
        self.picture("front", brightness)
        self.picture("wrist", brightness // 2)
        self.step()

    def step(self) -> None:
        self.node._looked = -math.inf  # as if it had not looked for long
        self.node._step(self.stop)


@pytest.fixture
def make_rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr(module, "load_runtime", lambda *_: FakeRuntime())
    monkeypatch.setattr(module.os, "setpriority", lambda *_: None)  # the test is the worker
    rclpy.init()
    nodes = []

    def make(**parameters: Any) -> Rig:
        node = ValueMonitor()
        nodes.append(node)
        contract = str(find_contract("sim_arm"))
        node.parameters = ValueMonitorParameters(contract=contract, **parameters)
        node.configure(node.parameters)
        values: list[ValueEstimate] = []
        node._values = SimpleNamespace(publish=values.append)
        return Rig(node, node._runtime, values)

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def rig(make_rig: Any) -> Rig:
    return make_rig()


def test_an_estimate_tells_all_that_the_distribution_does(rig: Rig) -> None:
    rig.give(7)
    rig.node._on_subtask(Subtask(goal=7, subtask="wipe"))
    rig.pictures(51)
    (estimate,) = rig.values
    assert (estimate.goal, estimate.task, estimate.subtask) == (7, "tidy", "wipe")
    assert estimate.value == pytest.approx(-0.8)
    assert list(estimate.quantiles) == pytest.approx([-0.8] * 3)
    assert estimate.entropy == pytest.approx(0.0)
    assert estimate.subtask_value == pytest.approx(0.0)
    assert len(estimate.probabilities) == 201
    assert nanoseconds(estimate.header.stamp) == rig.now
    assert list(estimate.inputs) == ["front", "wrist"]
    assert list(estimate.input_ages) == [0.0, 0.0]
    assert estimate.age == 0.0
    assert rig.runtime.seen[-1][1] == ["tidy", "wipe"]


def test_a_subtask_of_another_goal_is_not_estimated(rig: Rig) -> None:
    rig.give(7)
    rig.node._on_subtask(Subtask(goal=6, subtask="wipe"))
    rig.pictures(51)
    assert rig.values[0].subtask == ""
    assert math.isnan(rig.values[0].subtask_value)


def test_without_a_task_it_looks_and_waits_and_says_so(rig: Rig) -> None:
    rig.pictures(51)
    assert not rig.values
    assert rig.node.health().message.startswith("nobody publishes /front/image")
    rig.node.count_publishers = lambda _: 1
    health = rig.node.health()
    assert (health.level, health.message) == (OK, "no task is given: waiting")
    rig.give(3, "   ")
    rig.pictures(51)
    assert not rig.values
    assert rig.node.health().message == "no task is given: waiting"
    rig.give(3, "tidy")
    rig.pictures(51)
    assert len(rig.values) == 1
    assert rig.node.health().message == "ok"


def test_a_fixed_task_serves_while_no_message_gives_one(make_rig: Any) -> None:
    rig = make_rig(task="tidy up")
    rig.pictures(51)
    assert (rig.values[-1].goal, rig.values[-1].task) == (Task.GOAL_NONE, "tidy up")
    rig.give(7)
    rig.pictures(51)
    assert (rig.values[-1].goal, rig.values[-1].task) == (7, "tidy")


def test_an_unknown_text_is_warned_of_and_estimated_all_the_same(rig: Rig) -> None:
    rig.node.count_publishers = lambda _: 1
    rig.give(1, "fly")
    rig.pictures(51)
    assert len(rig.values) == 1
    health = rig.node.health()
    assert (health.level, health.message) == (WARN, "the value function was not trained on 'fly'")


def test_a_text_that_cannot_be_read_ends_nothing(rig: Rig) -> None:
    rig.node.count_publishers = lambda _: 1
    rig.give(1)
    rig.runtime.error = ValueError("the tokenizer does not know 'ß'")
    rig.pictures(51)
    assert rig.node.health().message == "the tokenizer does not know 'ß'"
    rig.runtime.error = None
    rig.pictures(51)
    assert rig.node.health().message == "ok"


def test_earlier_frames_are_a_step_apart_and_begin_with_the_goal(rig: Rig) -> None:
    rig.give(1)
    for brightness in range(0, 60, 10):
        rig.pictures(brightness)
    fronts = [seen["front"] for seen, _ in rig.runtime.seen]
    assert fronts == [
        [0, 0, 0],
        [0, 0, 10],
        [0, 0, 20],
        [0, 10, 30],
        [0, 20, 40],
        [10, 30, 50],
    ]
    assert rig.runtime.seen[-1][0]["wrist"] == [5, 15, 25]
    rig.give(2)
    rig.pictures(200)
    assert rig.runtime.seen[-1][0]["front"] == [200, 200, 200]


def test_a_clock_that_goes_back_begins_anew(rig: Rig) -> None:
    rig.give(1)
    for _ in range(20):
        rig.pictures(100)
    assert rig.values[-1].stalled
    rig.now -= 60 * SECOND
    rig.pictures(30)
    rig.pictures(30)
    assert not rig.values[-1].stalled
    assert rig.runtime.seen[-1][0]["front"] == [30, 30, 30]


@pytest.mark.parametrize("silent", ["front", "wrist"])
def test_a_camera_that_stops_is_named_and_nothing_is_estimated_from_it(
    rig: Rig, silent: str
) -> None:
    rig.give(1)
    rig.pictures(51)
    for _ in range(5):
        rig.now += SECOND // 10
        rig.picture("wrist" if silent == "front" else "front", 60)
        rig.step()
    count = len(rig.values)
    assert f"{silent} is stale" in rig.node.health().message
    rig.now += SECOND // 10
    rig.step()
    assert len(rig.values) == count
    rig.pictures(70)
    assert len(rig.values) == count + 1
    assert "stale" not in rig.node.health().message


def test_a_frame_of_another_size_is_dropped_and_never_replaced_by_the_one_before(rig: Rig) -> None:
    rig.give(1)
    rig.pictures(51)
    rig.now += SECOND // 5
    rig.picture("front", 60, height=95)
    rig.picture("wrist", 60)
    rig.step()
    assert len(rig.values) == 1
    assert "front is corrupt" in rig.node.health().message
    assert rig.node.health().values["front_faults"] == 1
    rig.pictures(70)
    assert rig.values[-1].value == pytest.approx(ATOMS[round(70 * 200 / 255)])


def test_a_frozen_picture_is_flagged_and_estimated_all_the_same(rig: Rig) -> None:
    rig.give(1)
    for _ in range(10):
        rig.pictures(51)
    assert "front shows the same picture again and again" in rig.node.health().message
    assert len(rig.values) == 10


def test_estimates_come_at_the_rate_however_many_pictures_do(make_rig: Any) -> None:
    rig = make_rig(rate=2.5)
    rig.give(1)
    for _ in range(40):
        rig.now += SECOND // 20
        rig.picture("front", 51)
        rig.picture("wrist", 51)
        rig.node._step(rig.stop)
    stamps = [nanoseconds(value.header.stamp) for value in rig.values]
    assert np.diff(stamps).tolist() == [SECOND * 2 // 5] * (len(stamps) - 1)
    assert len(stamps) == 5


def test_a_slow_camera_sets_the_pace_and_lags_no_further_than_it_must(rig: Rig) -> None:
    rig.give(1)
    rig.node._looked = math.inf  # as if it had just looked
    for frame in range(40):
        rig.now += SECOND // 20
        rig.picture("front", 51)
        rig.node._step(rig.stop)
        if frame % 4 == 1:
            rig.picture("wrist", 51)
            rig.node._step(rig.stop)
        rig.node._looked = math.inf
    assert len(rig.values) == 10
    assert all(list(value.input_ages) == [0.0, 0.0] for value in rig.values)


def test_an_estimate_waits_for_the_pictures_of_its_time_from_every_camera(rig: Rig) -> None:
    rig.give(1)
    rig.pictures(10)
    rig.now += SECOND * 3 // 20
    rig.picture("front", 20)
    rig.picture("wrist", 20)
    rig.node._looked = math.inf  # as if it had just looked
    for name, estimates in (("front", 1), ("wrist", 2)):
        rig.now += SECOND // 20 * (name == "front")
        rig.picture(name, 30)
        rig.node._step(rig.stop)
        assert len(rig.values) == estimates
    newest = {name: frames[-1] for name, frames in rig.runtime.seen[-1][0].items()}
    assert newest == {"front": 30, "wrist": 30}


@pytest.mark.parametrize(
    ("rate", "history", "step", "period"),
    [(5.0, 1, 0.5, 0.2), (5.0, 2, 0.5, 0.25), (6.0, 3, 0.5, 0.5 / 3), (1.0, 2, 0.5, 1.0)],
)
def test_earlier_frames_lie_where_those_of_training_lay(
    rate: float, history: int, step: float, period: float
) -> None:
    assert estimate_period(rate, history, step) == pytest.approx(period)
    assert estimate_period(rate, history, step) >= 1.0 / rate


def test_cleaned_up_the_value_function_is_let_go_before_another_is_loaded(rig: Rig) -> None:
    runtime = weakref.ref(rig.runtime)
    rig.give(1)
    rig.pictures(51)
    rig.runtime = None  # type: ignore[assignment]
    rig.node.cleanup()
    assert runtime() is None
    rig.node.cleanup()  # as after a configure that failed


def test_a_value_function_that_fails_fails_the_node(rig: Rig) -> None:
    rig.give(1)
    rig.runtime.error = RuntimeError("out of memory")
    rig.now += SECOND
    rig.picture("front", 51)
    rig.picture("wrist", 51)
    rig.node._work(rig.stop)  # comes back
    assert "out of memory" in rig.node._failure


def test_a_value_function_that_fails_after_deactivation_fails_nothing(rig: Rig) -> None:
    rig.give(1)
    rig.pictures(51)
    rig.runtime.error = RuntimeError("the device is gone")
    rig.stop.set()
    rig.node._work(rig.stop)
    assert not rig.node._failure


def test_nothing_is_published_after_deactivation(rig: Rig) -> None:
    rig.give(1)
    rig.stop.set()
    rig.pictures(51)
    assert not rig.values


def test_overlay_and_markers_show_the_newest_estimate(rig: Rig) -> None:
    display = rig.node._display
    shown: dict[str, Any] = {}
    for name in ("_markers", "_overlay"):
        keep = partial(shown.__setitem__, name)
        fake = SimpleNamespace(publish=keep, get_subscription_count=lambda: 1)
        setattr(display, name, fake)
    rig.node._state_machine = SimpleNamespace(current_state=(3, "active"))
    rig.node._show()
    assert {marker.ns: marker.action for marker in shown["_markers"].markers}["bar"] == 2
    blank = bytes(shown["_overlay"].data)
    rig.give(1)
    rig.node._on_chunk(ActionChunk(goal=1, energy=0.5))
    for brightness in (100, 120):
        rig.pictures(brightness)
    rig.node._show()
    overlay, markers = shown["_overlay"], shown["_markers"].markers
    assert (overlay.encoding, len(overlay.data)) == ("rgb8", 3 * overlay.width * overlay.height)
    assert bytes(overlay.data) != blank
    bar = next(marker for marker in markers if marker.ns == "bar")
    assert bar.action == 0
    assert bar.scale.z == pytest.approx(0.5 * (1.0 + rig.values[-1].value))
    assert bar.header.frame_id == "world"
    assert bar.lifetime.sec > 0
    line = next(marker for marker in markers if marker.ns == "history")
    assert len(line.points) == 2


def test_nobody_looking_nothing_is_drawn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr("vla_nodes.nodes.value_display.compose_value", fail)
    monkeypatch.setattr("vla_nodes.nodes.value_display.value_shapes", fail)
    rig.node._state_machine = SimpleNamespace(current_state=(3, "active"))
    rig.node._show()


def test_the_reference_stays_where_the_model_looks_at_it() -> None:
    contract = load_contract(find_contract("sim_arm"))
    assert pictures_only(contract, ["wrist", "front"]).reference == "front"
    assert pictures_only(contract, ["wrist"]).reference == "wrist"
    assert [camera.name for camera in pictures_only(contract, ["wrist"]).cameras] == ["wrist"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"quantiles": (0.5, 0.1)}, "parameter 'quantiles' is [0.5, 0.1]; it must be at most 16"),
        ({"quantiles": (0.0, 0.5)}, "parameter 'quantiles'"),
        ({"quantiles": tuple(np.linspace(0.1, 0.9, 17).tolist())}, "parameter 'quantiles'"),
        ({"task": "x" * 513}, "parameter 'task' has 513 characters; it must have at most 512"),
        ({"marker_origin": (0.0, 1.0)}, "parameter 'marker_origin' is [0.0, 1.0]"),
        ({"stall_gain": 0.2}, "stall_recovery is 0.1; it must be greater than stall_gain, 0.2"),
        ({"display_camera": "rear"}, "parameter 'display_camera' is 'rear'; it must be one"),
    ],
)
def test_parameters_that_make_no_sense_are_named(
    make_rig: Any, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(ParameterError) as raised:
        make_rig(**wrong)
    assert words in str(raised.value)


def test_a_checkpoint_must_be_named_and_be_there(tmp_path: Path) -> None:
    contract = load_contract(find_contract("sim_arm"))
    with pytest.raises(ParameterError, match="'checkpoint' is empty; name a value function"):
        load_runtime(ValueMonitorParameters(), contract)
    with pytest.raises(ParameterError, match="nowhere"):
        load_runtime(ValueMonitorParameters(checkpoint=str(tmp_path / "nowhere")), contract)


def test_a_checkpoint_for_other_cameras_than_the_robots_names_them(tmp_path: Path) -> None:
    contract = load_contract(find_contract("sim_arm"))
    (tmp_path / "value.json").write_text('{"cameras": ["rear", "left"]}')
    words = "looks at rear, left; the contract has only the cameras front, wrist"
    with pytest.raises(ParameterError, match=words):
        load_runtime(ValueMonitorParameters(checkpoint=str(tmp_path)), contract)


def test_a_camera_that_the_robot_lacks_is_warned_of(rig: Rig) -> None:
    rig.node.count_publishers = lambda _: 1
    rig.runtime.checkpoint.interface.cameras = ("wrist", "front", "rear")
    rig.give(1)
    rig.pictures(51)
    words = "the contract has no rear, which the value function was trained with"
    assert rig.node.health().message == words


def test_every_setting_of_the_events_is_a_parameter() -> None:
    parameters = replace(ValueMonitorParameters(), window=4.5, subtask_hold=2.0)
    settings = event_settings(parameters)
    assert (settings.window, settings.subtask_hold) == (4.5, 2.0)
    check_contents(parameters)
