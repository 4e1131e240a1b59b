# SPDX-License-Identifier: Apache-2.0
"""The value estimate as shapes in space, for the markers of rviz.

A bar stands in a translucent frame, as high as the value; a label floats above it, and a line of
the last seconds runs up to it from the side. The frame's z axis points up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla_nodes.display.lettering import rgb
from vla_nodes.display.style import GREY, figure, printable, state_colour
from vla_nodes.display.value_history import SPAN

Point = tuple[float, float, float]

LINE_LETTERS = 60  # of a line of the label
THINNEST = 1e-3  # m; rviz refuses a scale of zero


@dataclass(frozen=True)
class Placement:
    """Where the shapes stand in their frame, and how large.

    Attributes:
        origin: Foot of the bar, m.
        height: Of the bar at value 0, m; all else is in proportion.
    """

    origin: Point = (0.0, -0.6, 0.0)
    height: float = 0.5


@dataclass(frozen=True)
class Shape:
    """One marker.

    Attributes:
        namespace: Its own, by which it is updated, deleted and switched on and off.
        kind: ``text`` faces the viewer, ``bar`` is a box, ``line`` joins its points.
        shown: Whether it is to be seen; otherwise the marker is to be deleted.
        position: Of the centre, m; (0, 0, 0) for a line.
        scale: m; only z, the letters' height, counts for a text, and only x, the width, for a
            line.
        colour: Red, green, blue and opacity in [0, 1].
        points: Of a line, at least two where it is shown.
        text: Printable lines.
    """

    namespace: str
    kind: Literal["text", "bar", "line"]
    shown: bool
    position: Point = (0.0, 0.0, 0.0)
    scale: Point = (1.0, 1.0, 1.0)
    colour: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    points: Sequence[Point] = ()
    text: str = ""


def value_shapes(
    *,
    state: str,
    value: float,
    trend: float,
    subtask: str,
    times: np.ndarray,
    values: np.ndarray,
    placement: Placement = Placement(),
) -> tuple[Shape, ...]:
    """Shapes of an estimate, always the same ones in the same order, so that none is left over.

    Args:
        state: ``running``, ``stalled``, ``waiting`` or another word.
        value: In [-1, 0]; NaN hides the bar.
        trend: Of the value, per second; NaN when unknown.
        subtask: In plain words; empty when there is none.
        times: Of the recent estimates (N,), s, the newest last.
        values: At those times (N,); NaN is left out.
        placement: Where the shapes stand.

    Returns:
        The frame, the bar, the label and the history.
    """
    x, y, z = placement.origin
    height = placement.height
    width = 0.12 * height
    red, green, blue = _colour(state_colour(state))
    solid = (red, green, blue, 1.0)
    level = 0.0 if math.isnan(value) else max(height * _share(value), THINNEST)
    points = _line(times, values, (x, y - width, z), height)
    return (
        Shape(
            "frame",
            "bar",
            shown=True,
            position=(x, y, z + height / 2),
            scale=(1.1 * width, 1.1 * width, height),
            colour=(*_colour(GREY), 0.25),
        ),
        Shape(
            "bar",
            "bar",
            shown=level > 0,
            position=(x, y, z + level / 2),
            scale=(width, width, max(level, THINNEST)),
            colour=solid,
        ),
        Shape(
            "label",
            "text",
            shown=True,
            position=(x, y, z + 1.25 * height),
            scale=(0.1 * height, 0.1 * height, 0.1 * height),
            colour=solid,
            text=_label(state, value, trend, subtask),
        ),
        Shape(
            "history",
            "line",
            shown=len(points) > 1,
            scale=(0.02 * height, 0.02 * height, 0.02 * height),
            colour=solid,
            points=points,
        ),
    )


def _label(state: str, value: float, trend: float, subtask: str) -> str:
    head = f"{state.upper()}  {figure(value, 'z.2f')}  ({figure(trend, '+z.3f')}/s)"
    lines = [printable(line, LINE_LETTERS) for line in (head, subtask)]
    return "\n".join(line for line in lines if line)


def _line(times: np.ndarray, values: np.ndarray, end: Point, height: float) -> tuple[Point, ...]:
    """The history along -y, ``2 * height`` long, its newest point at ``end``'s x and y."""
    x, y, z = end
    known = np.isfinite(times) & ~np.isnan(values)
    if not known.any():
        return ()
    ages = times[known][-1] - times[known]
    shown = (ages >= 0) & (ages <= SPAN)
    return tuple(
        (x, y - 2 * height * age / SPAN, z + height * _share(value))
        for age, value in zip(ages[shown].tolist(), values[known][shown].tolist(), strict=True)
    )


def _share(value: float) -> float:
    """The part of the bar's height that a value fills, in [0, 1]."""
    return 1.0 + min(max(value, -1.0), 0.0)


def _colour(colour: str) -> tuple[float, float, float]:
    red, green, blue = rgb(colour)
    return red / 255, green / 255, blue / 255
