# SPDX-License-Identifier: Apache-2.0
"""The markers stand where the value says, stay valid, and leave none of their like behind."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.display.lettering import rgb
from vla_nodes.display.style import STATE_COLOURS
from vla_nodes.display.value_markers import Placement, Shape, value_shapes

TIMES = np.array([100.0, 105.0, 110.0, 120.0])
VALUES = np.array([-1.0, -0.75, math.nan, -0.25])
PLACE = Placement(origin=(1.0, 2.0, 3.0), height=2.0)


def shapes(**changes: object) -> dict[str, Shape]:
    """Shapes by namespace."""
    given = {
        **{"state": "running", "value": -0.25, "trend": 0.03, "subtask": "grasp the cube"},
        **{"times": TIMES, "values": VALUES, "placement": PLACE},
    }
    drawn = value_shapes(**{**given, **changes})
    assert len({shape.namespace for shape in drawn}) == len(drawn)
    return {shape.namespace: shape for shape in drawn}


def bottom_and_top(shape: Shape) -> tuple[float, float]:
    return shape.position[2] - shape.scale[2] / 2, shape.position[2] + shape.scale[2] / 2


@pytest.mark.parametrize("value", [-0.9, -0.5, -0.125, 0.0])
def test_the_bar_stands_on_the_foot_of_its_frame_as_high_as_the_value(value: float) -> None:
    drawn = shapes(value=value)
    assert bottom_and_top(drawn["bar"]) == pytest.approx((3.0, 3.0 + 2.0 * (1 + value)))
    assert bottom_and_top(drawn["frame"]) == pytest.approx((3.0, 5.0))
    assert drawn["bar"].position[:2] == drawn["frame"].position[:2] == (1.0, 2.0)
    assert drawn["frame"].colour[3] < 0.5 < drawn["bar"].colour[3]
    assert bottom_and_top(drawn["label"])[0] > 5.0


def test_the_line_joins_the_known_values_over_time_up_to_the_bar() -> None:
    points = np.array(shapes()["history"].points)
    assert points[:, 2] == pytest.approx([3.0, 3.5, 4.5])
    assert np.diff(points[:, 1]) == pytest.approx([1.0, 3.0]), "20 s are twice the height"
    bar = shapes()["bar"]
    assert points[-1, 1] < bar.position[1] - bar.scale[1] / 2
    assert set(points[:, 0]) == {1.0}


def test_what_is_too_old_is_left_out() -> None:
    times = np.array([0.0, 90.0, 95.0, 100.0])
    assert len(shapes(times=times, values=np.full(4, -0.5))["history"].points) == 3


@pytest.mark.parametrize(
    "values", [[], [-0.5], [math.nan] * 3, [math.nan, -0.5, math.nan]], ids=len
)
def test_a_line_of_less_than_two_points_is_deleted(values: list[float]) -> None:
    times = np.arange(len(values), dtype=float)
    assert not shapes(times=times, values=np.array(values))["history"].shown


def test_an_unknown_value_deletes_the_bar_only() -> None:
    drawn = shapes(value=math.nan)
    assert not drawn["bar"].shown
    assert drawn["frame"].shown
    assert "-" in drawn["label"].text


@pytest.mark.parametrize("state", STATE_COLOURS)
def test_all_but_the_frame_have_the_colour_of_the_state(state: str) -> None:
    drawn = shapes(state=state)
    wanted = [channel / 255 for channel in rgb(STATE_COLOURS[state])]
    for name in ("bar", "label", "history"):
        assert drawn[name].colour == pytest.approx((*wanted, 1.0))


def test_the_label_tells_state_value_trend_and_subtask() -> None:
    assert shapes(state="stalled")["label"].text == "STALLED -0.25 (+0.030/s)\ngrasp the cube"
    assert shapes(subtask="")["label"].text == "RUNNING -0.25 (+0.030/s)"


@given(
    text=st.text(max_size=300),
    number=st.floats(),
    samples=st.lists(st.tuples(st.floats(0, 1e9), st.floats()), max_size=30),
)
def test_any_estimate_gives_the_same_valid_markers(
    text: str, number: float, samples: list[tuple[float, float]]
) -> None:
    times, values = np.array(sorted(samples), dtype=float).reshape(-1, 2).T
    drawn = shapes(state=text, subtask=text, value=number, trend=number, times=times, values=values)
    assert list(drawn) == list(shapes())
    label = drawn["label"].text
    assert all(line.isprintable() and len(line) <= 60 for line in label.split("\n"))
    assert 1 <= len(label.split("\n")) <= 2
    for shape in drawn.values():
        assert min(shape.scale) > 0
        numbers = [*shape.position, *shape.scale, *shape.colour, *np.ravel(shape.points)]
        assert np.isfinite(numbers).all()
        assert all(3.0 <= z <= 5.0 for _, _, z in shape.points)
        assert shape.kind != "line" or not shape.shown or len(shape.points) > 1


def test_everything_grows_and_moves_with_its_placement() -> None:
    small = shapes(placement=replace(PLACE, origin=(0.0, 0.0, 0.0), height=0.5))
    for name, large in shapes().items():
        assert np.array(large.scale) == pytest.approx(4 * np.array(small[name].scale))
        if large.kind != "line":
            assert np.array(large.position) == pytest.approx(
                4 * np.array(small[name].position) + PLACE.origin
            )
