# SPDX-License-Identifier: Apache-2.0
"""What Rerun is given, seen by a stand-in with the interface of its library."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from vla_nodes.display.rerun_view import RerunMissingError, RerunView
from vla_nodes.display.watch_terminal import WatchView


class FakeRerun(ModuleType):
    """Keeps what is logged, as (time, path, kind, content)."""

    def __init__(self) -> None:
        super().__init__("rerun")
        self.logged: list[tuple[float, str, str, Any]] = []
        self.viewers: list[str] = []
        self.now = float("nan")

    def init(self, application_id: str, *, spawn: bool = False) -> None:
        assert spawn
        self.viewers.append(application_id)

    def set_time(self, timeline: str, *, timestamp: float) -> None:
        assert timeline
        self.now = timestamp

    def log(self, entity_path: str, entity: tuple[str, Any]) -> None:
        self.logged.append((self.now, entity_path, *entity))

    def __getattr__(self, name: str) -> Any:
        if name not in {"Scalars", "BarChart", "TextLog", "Image"}:
            raise AttributeError(name)
        return lambda content: (name, content)

    def found(self, path: str) -> list[tuple[float, str, Any]]:
        return [(time, kind, content) for time, at, kind, content in self.logged if at == path]


@pytest.fixture
def rerun(monkeypatch: pytest.MonkeyPatch) -> FakeRerun:
    module = FakeRerun()
    monkeypatch.setitem(sys.modules, "rerun", module)
    return module


MASS = np.full(201, 1 / 201)
VIEW = WatchView(
    subtask="grasp the cube",
    state="running",
    value=-0.4,
    quantiles={0.1: -0.6, 0.9: -0.2},
    probabilities=MASS,
)


def test_an_estimate_is_logged_at_its_stamp(rerun: FakeRerun) -> None:
    RerunView().show(VIEW, 12.5)
    assert rerun.viewers == ["vla-watch"]
    assert rerun.found("value/expectation") == [(12.5, "Scalars", -0.4)]
    assert rerun.found("value/quantile_10") == [(12.5, "Scalars", -0.6)]
    assert rerun.found("value/quantile_90") == [(12.5, "Scalars", -0.2)]
    ((time, kind, content),) = rerun.found("distribution")
    assert (time, kind) == (12.5, "BarChart")
    assert content is MASS


def test_what_is_unknown_is_not_logged(rerun: FakeRerun) -> None:
    RerunView().show(WatchView(), 1.0)
    assert {path for _, path, _, _ in rerun.logged} == {"events"}


def test_a_change_of_state_or_subtask_is_an_event_and_nothing_else_is(rerun: FakeRerun) -> None:
    viewer = RerunView()
    stalled = WatchView(state="stalled", subtask="grasp the cube", value=-0.4)
    for stamp, view in enumerate([VIEW, VIEW, stalled, stalled, VIEW]):
        viewer.show(view, float(stamp))
    said = [(time, text) for time, _, text in rerun.found("events")]
    assert said == [
        (0.0, "running: grasp the cube (-0.40)"),
        (2.0, "stalled: grasp the cube (-0.40)"),
        (4.0, "running: grasp the cube (-0.40)"),
    ]


def test_a_picture_is_logged_under_its_name_at_its_own_stamp(rerun: FakeRerun) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    viewer = RerunView()
    viewer.show(VIEW, 3.0)
    viewer.show_picture("overlay", picture, 2.5)
    ((time, kind, content),) = rerun.found("overlay")
    assert (time, kind) == (2.5, "Image")
    assert content is picture


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(RerunMissingError, match="pip install rerun-sdk"):
        RerunView()


def test_an_older_library_is_refused_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("rerun")
    old.__version__ = "0.18.2"
    monkeypatch.setitem(sys.modules, "rerun", old)
    with pytest.raises(RerunMissingError, match=r"Rerun 0\.18\.2 is too old; install 0\.23"):
        RerunView()
