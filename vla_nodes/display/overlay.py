# SPDX-License-Identifier: Apache-2.0
"""One picture of a run: what the cameras see, what the robot is at, and how it goes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vla_nodes.display.lettering import Colour, draw_text, rgb
from vla_nodes.display.style import SKY, figure, state_colour

WIDTH, HEIGHT = 692, 484  # px; even, as H.264 in yuv420p needs

MARGIN = 12
GAP = 8
MAIN = (480, 360)  # px, width and height
INSETS = 4  # more would be too small to see
VALUE = (430, 412, 226, 56)  # x, y, width and height of the curve; the bar stands right of it
VALUE_BAR = 14  # px wide
SHORTEST_CURVE = 100  # samples that fill the width; fewer begin further right

BACKGROUND = (24, 26, 30)
PANEL = (36, 39, 45)
RULE = (62, 67, 76)
DIM = (150, 157, 168)
BRIGHT = (236, 239, 244)


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
    _fill(frame, BACKGROUND)
    _draw_pictures(frame, picture)
    _draw_caption(frame, picture)
    _draw_value(frame, picture)
    return frame


def _draw_pictures(frame: np.ndarray, picture: RunPicture) -> None:
    width, height = MAIN
    if not picture.insets:
        width = WIDTH - 2 * MARGIN
    place = frame[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    _fill(place, PANEL)
    if picture.main is None:
        centre = (width // 2 - 40, height // 2)
        draw_text(place, "no picture yet", centre, 13, DIM, width=width)
    else:
        _fit(place, "main", picture.main)
    insets = picture.insets[:INSETS]
    for i, (label, inset) in enumerate(insets):
        top, bottom = (MARGIN + k * (height + GAP) // len(insets) for k in (i, i + 1))
        place = frame[top : bottom - GAP, MARGIN + width + GAP : WIDTH - MARGIN]
        _fill(place, PANEL)
        _fit(place, label, inset)
        shade = place[:20]
        shade[:] = shade // 3
        draw_text(place, label, (7, 14), 11, BRIGHT, width=place.shape[1] - 14)


def _fill(place: np.ndarray, colour: Colour) -> None:
    """Colour a place all over, in place, many times faster than numpy's assignment."""
    cv2.rectangle(place, (0, 0), place.shape[1::-1], colour, cv2.FILLED)


def _fit(place: np.ndarray, label: str, picture: np.ndarray) -> None:
    """Scale a picture into the middle of a place, in place."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        found = f"{picture.dtype} {picture.shape}"
        raise ValueError(f"picture '{label}' is {found}; it must be uint8 RGB (H, W, 3)")
    scale = min(place.shape[0] / picture.shape[0], place.shape[1] / picture.shape[1])
    height, width = (max(1, round(scale * size)) for size in picture.shape[:2])
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    top, left = (place.shape[0] - height) // 2, (place.shape[1] - width) // 2
    place[top : top + height, left : left + width] = cv2.resize(
        picture, (width, height), interpolation=smooth
    )


def _draw_caption(frame: np.ndarray, picture: RunPicture) -> None:
    end = _draw_badge(frame, picture.state, (MARGIN, 386))
    elapsed = "" if math.isnan(picture.elapsed) else figure(picture.elapsed, ".1f") + " s"
    draw_text(frame, elapsed, (end + 10, 402), 13, BRIGHT, width=80)
    left, width = MARGIN + 62, VALUE[0] - 22 - MARGIN - 62
    draw_text(frame, "task", (MARGIN, 436), 12, DIM, width=60)
    draw_text(frame, picture.task, (left, 436), 15, BRIGHT, width=width, bold=True)
    draw_text(frame, "subtask", (MARGIN, 463), 12, DIM, width=60)
    draw_text(frame, picture.subtask or "-", (left, 463), 14, BRIGHT, width=width)


def _draw_badge(frame: np.ndarray, text: str, corner: tuple[int, int]) -> int:
    """Draw a state as dark text on a round-ended patch; returns where it ends, px from the left."""
    x, y, height = *corner, 22
    radius = height // 2
    patch = np.full((height, 200, 3), rgb(state_colour(text)), np.uint8)
    width = 2 * radius + draw_text(
        patch, text.upper(), (radius, 16), 12, BACKGROUND, width=170, bold=True
    )
    mask = np.zeros((height, width), np.uint8)
    ends = (radius, radius), (width - 1 - radius, radius)
    cv2.line(mask, *ends, 255, height - 2, cv2.LINE_AA)
    alpha = mask[..., None] / 255.0
    place = frame[y : y + height, x : x + width]
    place[:] = place + alpha * (patch[:, :width].astype(float) - place) + 0.5
    return x + width


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
    _draw_curve(frame, picture.values, accent)
    bar = frame[y : y + height, x + width + GAP : end]
    _fill(bar, PANEL)
    if not math.isnan(picture.value):
        _fill(bar[value_row(picture.value) - y :], accent)


def value_row(value: float) -> int:
    """The row of a frame where the curve and the bar's top show a value; cut to [-1, 0]."""
    _, y, _, height = VALUE
    return y + round(-min(max(value, -1.0), 0.0) * (height - 1))


def _draw_curve(frame: np.ndarray, values: Sequence[float], colour: Colour) -> None:
    x, y, width, height = VALUE
    samples = np.clip(np.asarray(values, dtype=float), -1.0, 0.0)
    ages = np.arange(len(samples) - 1, -1, -1) / (max(len(samples), SHORTEST_CURVE) - 1)
    points = np.stack([x + (width - 1) * (1 - ages), y - samples * (height - 1)], axis=-1)
    known = ~np.isnan(samples)
    cuts = np.flatnonzero(np.diff(known)) + 1
    runs = [
        run
        for run, shown in zip(np.split(points, cuts), np.split(known, cuts), strict=True)
        if shown.any()
    ]
    fixed = [np.round(run * 16).astype(np.int32) for run in runs]  # 4 fractional bits
    cv2.polylines(frame, fixed, False, colour, 2, cv2.LINE_AA, shift=4)
