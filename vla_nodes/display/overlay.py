# SPDX-License-Identifier: Apache-2.0
"""One picture of a run: what the cameras see, what the robot is at, and how it goes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_nodes.display.drawing import (
    BACKGROUND,
    BRIGHT,
    DIM,
    GAP,
    MARGIN,
    PANEL,
    RULE,
    draw_badge,
    draw_camera,
    draw_curve,
    fill,
)
from vla_nodes.display.lettering import draw_text, rgb
from vla_nodes.display.style import SKY, figure

WIDTH, HEIGHT = 692, 484  # px; even, as H.264 in yuv420p needs

MAIN = (480, 360)  # px, width and height
INSETS = 4  # more would be too small to see
VALUE = (430, 412, 226, 56)  # x, y, width and height of the curve; the bar stands right of it
VALUE_BAR = 14  # px wide
SHORTEST_CURVE = 100  # samples that fill the width; fewer begin further right


@dataclass(frozen=True)
class RunPicture:
    """What one frame shows.

    Attributes:
        main: Picture (H, W, 3) uint8 RGB of the main camera, or None before the first.
        insets: (label, picture) of the other cameras, top to bottom, the first ``INSETS`` of
            them; without any the main picture takes the whole width.
        task: In plain words.
        subtask: In plain words; empty when there is none.
        state: ``running``, ``success``, ``stalled``, ``aborted``, ``e-stop`` or another word.
        elapsed: Seconds since the task began; NaN when unknown.
        value: In [-1, 0]; NaN when unknown.
        values: The recent values, evenly spaced in time, the newest last; NaN leaves a gap.
        energy: Of the latest chunk; NaN hides it.
    """

    main: np.ndarray | None
    insets: Sequence[tuple[str, np.ndarray]] = ()
    task: str = ""
    subtask: str = ""
    state: str = "idle"
    elapsed: float = math.nan
    value: float = math.nan
    values: Sequence[float] = ()
    energy: float = math.nan


def compose(picture: RunPicture) -> np.ndarray:
    """Draw a frame.

    Returns:
        (HEIGHT, WIDTH, 3) uint8 RGB, of the same size whatever the pictures' sizes.

    Raises:
        ValueError: A picture is not (H, W, 3) uint8.
    """
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    fill(frame, BACKGROUND)
    _draw_pictures(frame, picture)
    _draw_caption(frame, picture)
    _draw_value(frame, picture)
    return frame


def _draw_pictures(frame: np.ndarray, picture: RunPicture) -> None:
    width, height = MAIN
    if not picture.insets:
        width = WIDTH - 2 * MARGIN
    place = frame[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    draw_camera(place, "main", picture.main)
    insets = picture.insets[:INSETS]
    for i, (label, inset) in enumerate(insets):
        top, bottom = (MARGIN + k * (height + GAP) // len(insets) for k in (i, i + 1))
        place = frame[top : bottom - GAP, MARGIN + width + GAP : WIDTH - MARGIN]
        draw_camera(place, label, inset)
        shade = place[:20]
        shade[:] = shade // 3
        draw_text(place, label, (7, 14), 11, BRIGHT, width=place.shape[1] - 14)


def _draw_caption(frame: np.ndarray, picture: RunPicture) -> None:
    end = draw_badge(frame, picture.state, (MARGIN, 386))
    elapsed = "" if math.isnan(picture.elapsed) else figure(picture.elapsed, ".1f") + " s"
    draw_text(frame, elapsed, (end + 10, 402), 13, BRIGHT, width=80)
    left, width = MARGIN + 62, VALUE[0] - 22 - MARGIN - 62
    draw_text(frame, "task", (MARGIN, 436), 12, DIM, width=60)
    draw_text(frame, picture.task, (left, 436), 15, BRIGHT, width=width, bold=True)
    draw_text(frame, "subtask", (MARGIN, 463), 12, DIM, width=60)
    draw_text(frame, picture.subtask or "-", (left, 463), 14, BRIGHT, width=width)


def _draw_value(frame: np.ndarray, picture: RunPicture) -> None:
    x, y, width, height = VALUE
    baseline = y - 10
    end = x + width + GAP + VALUE_BAR
    used = draw_text(frame, "value", (x, baseline), 12, DIM, width=60)
    shown = figure(picture.value, ".2f")
    draw_text(frame, shown, (x + used + 7, baseline), 15, BRIGHT, width=70, bold=True)
    if not math.isnan(picture.energy):
        energy = figure(picture.energy, ".2f")
        used = draw_text(frame, energy, (end, baseline), 13, BRIGHT, width=70, right=True)
        draw_text(frame, "energy", (end - used - 7, baseline), 12, DIM, width=60, right=True)

    for level, label in ((0.0, "0"), (-0.5, ""), (-1.0, "-1")):
        at = value_row(level)
        frame[at, x : x + width] = RULE
        draw_text(frame, label, (x - 6, at + 4), 10, DIM, width=20, right=True)
    accent = rgb(SKY)
    draw_curve(frame, _curve(picture.values), accent)
    bar = frame[y : y + height, x + width + GAP : end]
    fill(bar, PANEL)
    if not math.isnan(picture.value):
        fill(bar[value_row(picture.value) - y :], accent)


def value_row(value: float) -> int:
    """The row of a frame where the curve and the bar's top show a value; cut to [-1, 0]."""
    _, y, _, height = VALUE
    return y + round(-min(max(value, -1.0), 0.0) * (height - 1))


def _curve(values: Sequence[float]) -> np.ndarray:
    """Points (N, 2) of the curve, in px; NaN where the value is unknown."""
    x, y, width, height = VALUE
    samples = np.clip(np.asarray(values, dtype=float), -1.0, 0.0)
    ages = np.arange(len(samples) - 1, -1, -1) / (max(len(samples), SHORTEST_CURVE) - 1)
    return np.stack([x + (width - 1) * (1 - ages), y - samples * (height - 1)], axis=-1)
