# SPDX-License-Identifier: Apache-2.0
"""One picture of a value estimate: what the camera sees, and how far the task has come.

The curve of the last seconds and the newest distribution stand side by side on one axis, on
which every atom of the distribution has a row of pixels of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from vla_nodes.display.drawing import (
    BACKGROUND,
    BRIGHT,
    DIM,
    FRACTION,
    GAP,
    MARGIN,
    PANEL,
    RULE,
    draw_badge,
    draw_camera,
    draw_curve,
    fill,
    fixed_point,
    known_runs,
)
from vla_nodes.display.lettering import Colour, draw_text, rgb, wrap_text
from vla_nodes.display.style import figure, state_colour
from vla_nodes.display.value_history import SPAN

WIDTH, HEIGHT = 768, 576  # px; even, as H.264 in yuv420p needs
ATOMS = 201  # of the distribution, evenly spaced from -1 to 0

CAMERA = (400, 300)  # px, width and height
COLUMN = MARGIN + CAMERA[0] + 2 * GAP  # px from the left of the texts and figures
# label, its y, and the text's letters: their size and whether they are bold
TEXTS = (("task", 64, 16, True), ("subtask", 148, 15, False))
# label, px from the left, and the figure's width
FIGURES = (
    ("value", COLUMN, 96),
    ("trend (1/s)", COLUMN + 104, 126),
    ("energy", COLUMN + 238, 90),
)
PLOT = (40, 341, 588, ATOMS)  # x, y, width and height of the curve
PAD = 4  # px above 0 and below -1, so that a line there is whole
HISTOGRAM = (636, 120)  # x and width; it shares the curve's rows
FAINT, PALE = 0.22, 0.5  # shares of a state's colour in the panel's


@dataclass(frozen=True)
class ValuePicture:
    """What one frame shows; NaN stands for an unknown number.

    Attributes:
        camera: Picture (H, W, 3) uint8 RGB of any size, or None before the first.
        task: In plain words.
        subtask: In plain words; empty when there is none.
        state: ``running``, ``stalled``, ``dropped``, ``finished``, ``waiting`` or another word.
        value: In [-1, 0].
        times: Of the recent estimates (N,), s from any origin, the newest last.
        values: At those times (N,); NaN leaves a gap.
        low: Lower edge of the quantile band at those times (N,), or empty for no band.
        high: Upper edge, likewise.
        probabilities: The newest distribution (ATOMS,), or None when there is none.
        trend: Of the value, per second.
        energy: Of the latest chunk.
        stalled: Whether the value makes no gain, which is shown in place of ``running``.
        age: Seconds since the observation behind the newest estimate.

    Raises:
        ValueError: The history's lengths differ, or there are not ``ATOMS`` probabilities.
    """

    camera: np.ndarray | None = None
    task: str = ""
    subtask: str = ""
    state: str = "waiting"
    value: float = math.nan
    times: Sequence[float] | np.ndarray = ()
    values: Sequence[float] | np.ndarray = ()
    low: Sequence[float] | np.ndarray = ()
    high: Sequence[float] | np.ndarray = ()
    probabilities: np.ndarray | None = None
    trend: float = math.nan
    energy: float = math.nan
    stalled: bool = False
    age: float = math.nan

    def __post_init__(self) -> None:
        lengths = len(self.values), len(self.low), len(self.high)
        count = len(self.times)
        if lengths not in ((count, count, count), (count, 0, 0)):
            raise ValueError(
                f"ValuePicture has {count} times but {lengths} values, low and high; "
                "there must be as many of each, or no low and high"
            )
        if self.probabilities is not None and np.shape(self.probabilities) != (ATOMS,):
            found = np.shape(self.probabilities)
            raise ValueError(
                f"ValuePicture.probabilities has shape {found}; it must have ({ATOMS},)"
            )


def compose_value(picture: ValuePicture) -> np.ndarray:
    """Draw a frame.

    Returns:
        (HEIGHT, WIDTH, 3) uint8 RGB, of the same size whatever the camera's.

    Raises:
        ValueError: The camera's picture is not (H, W, 3) uint8.
    """
    state = "stalled" if picture.stalled and picture.state == "running" else picture.state
    colour = rgb(state_colour(state))
    frame = _blank().copy()
    width, height = CAMERA
    place = frame[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    draw_camera(place, "camera", picture.camera)
    _draw_texts(frame, picture, state)
    _draw_history(frame, picture, colour)
    _draw_distribution(frame, picture, colour)
    return frame


def value_row(value: float) -> int:
    """The row of a frame where the curve shows a value, cut to [-1, 0]; each atom has its own."""
    return PLOT[1] + round(-min(max(value, -1.0), 0.0) * (ATOMS - 1))


@cache
def _blank() -> np.ndarray:
    """A frame with all that never changes: the axes of the curve and of the distribution."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    fill(frame, BACKGROUND)
    x, y, width, height = PLOT
    for left, wide in ((x, width), HISTOGRAM):
        fill(frame[y - PAD : y + height + PAD, left : left + wide], PANEL)
        for level in (0.0, -0.25, -0.5, -0.75, -1.0):
            frame[value_row(level), left : left + wide] = RULE
    for level in (0.0, -0.5, -1.0):
        place = (x - 7, value_row(level) + 4)
        draw_text(frame, f"{level:g}", place, 11, DIM, width=28, right=True)
    bottom = y + height + PAD + 13
    for age in (5, 10, 15):
        at = x + round((width - 1) * (1 - age / SPAN))
        frame[y : y + height, at] = RULE
        draw_text(frame, f"-{age} s", (at + 12, bottom), 11, DIM, width=40, right=True)
    draw_text(frame, "now", (x + width, bottom), 11, DIM, width=40, right=True)
    draw_text(frame, "value", (x, y - 12), 12, DIM, width=200)
    draw_text(frame, "probability", (HISTOGRAM[0], y - 12), 12, DIM, width=HISTOGRAM[1])
    for label, text_y, _, _ in TEXTS:
        draw_text(frame, label, (COLUMN, text_y), 12, DIM, width=90)
    frame[232, COLUMN : WIDTH - MARGIN] = RULE
    for label, x, _ in FIGURES:
        draw_text(frame, label, (x, 256), 12, DIM, width=90)
    return frame


def _draw_texts(frame: np.ndarray, picture: ValuePicture, state: str) -> None:
    end, width = WIDTH - MARGIN, WIDTH - MARGIN - COLUMN
    draw_badge(frame, state, (COLUMN, MARGIN))
    if not math.isnan(picture.age):
        age = figure(picture.age, ".2f") + " s old"
        draw_text(frame, age, (end, MARGIN + 16), 13, DIM, width=110, right=True)
    for text, (_, y, size, bold) in zip((picture.task, picture.subtask), TEXTS, strict=True):
        lines = wrap_text(text, size, width, 2, bold=bold) or ("-",)
        for row, line in enumerate(lines, start=1):
            at = (COLUMN, y + 1 + 21 * row)
            draw_text(frame, line, at, size, BRIGHT, width=width, bold=bold)
    figures = (
        figure(picture.value, "z.2f"),
        figure(picture.trend, "+z.3f"),
        figure(picture.energy, ".2f"),
    )
    for shown, (_, x, width) in zip(figures, FIGURES, strict=True):
        draw_text(frame, shown, (x, 288), 24, BRIGHT, width=width, bold=True)


def _draw_history(frame: np.ndarray, picture: ValuePicture, colour: Colour) -> None:
    """Draw the curve over its band; what is older than the plot is cut at the plot's edge."""
    x, y, width, height = PLOT
    place = frame[y - PAD : y + height + PAD, x : x + width]
    times = np.asarray(picture.times, dtype=float)
    values = np.asarray(picture.values, dtype=float)
    if not np.isfinite(values).any():
        draw_text(place, "no estimate yet", (width // 2 - 50, height // 2), 13, DIM, width=width)
        return
    ages = times[-1] - times
    shown = (ages >= 0) & (ages <= 2 * SPAN)
    columns = np.where(shown, (width - 1) * (1 - ages / SPAN), math.nan)

    def points(levels: Sequence[float] | np.ndarray) -> np.ndarray:
        rows = PAD - np.clip(np.asarray(levels, dtype=float), -1.0, 0.0) * (height - 1)
        return np.stack([columns, rows], axis=-1)

    if len(picture.low):
        low, high = points(picture.low), points(picture.high)
        for run in known_runs(~np.isnan(low + high).any(axis=-1)):
            edge = fixed_point(np.concatenate([low[run], high[run][::-1]]))
            cv2.fillPoly(place, [edge], _mixed(colour, FAINT), cv2.LINE_AA, shift=FRACTION)
    curve = points(values)
    draw_curve(place, curve, colour)
    if not np.isnan(curve[-1]).any():
        newest = tuple(fixed_point(curve[-1] - (4.5, 0)).tolist())
        for radius, fill_colour in ((5.5, PANEL), (4.0, colour)):
            size = round(radius * 2**FRACTION)
            cv2.circle(place, newest, size, fill_colour, cv2.FILLED, cv2.LINE_AA, shift=FRACTION)


def _draw_distribution(frame: np.ndarray, picture: ValuePicture, colour: Colour) -> None:
    """Draw a bar for each atom, the likeliest across the whole width; those in the band bold."""
    x, width = HISTOGRAM
    y, height = PLOT[1], PLOT[3]
    if picture.probabilities is not None:
        mass = np.clip(np.nan_to_num(picture.probabilities), 0.0, 1.0)[::-1]  # From 0 down.
        lengths = np.round(width * mass / max(mass.max(), 1e-6))
        colours = np.full((height, 1, 3), _mixed(colour, PALE), np.uint8)
        if len(picture.low) and not math.isnan(picture.low[-1] + picture.high[-1]):
            top, bottom = (value_row(edge) - y for edge in (picture.high[-1], picture.low[-1]))
            colours[top : bottom + 1] = colour
        bars = np.arange(width) < lengths[:, None]
        np.copyto(frame[y : y + height, x : x + width], colours, where=bars[..., None])
    if not math.isnan(picture.value):
        fill(frame[value_row(picture.value) :][:1, x : x + width], BRIGHT)


def _mixed(colour: Colour, share: float) -> Colour:
    """A colour as it looks on the panel when only a share of it is opaque."""
    red, green, blue = (
        round(share * c + (1 - share) * p) for c, p in zip(colour, PANEL, strict=True)
    )
    return red, green, blue
