# SPDX-License-Identifier: Apache-2.0
"""What the pictures of a run are made of: places, cameras, badges and curves."""

from collections.abc import Sequence

import cv2
import numpy as np

from vla_nodes.display.lettering import Colour, draw_text, rgb
from vla_nodes.display.style import state_colour

MARGIN = 12  # px around everything
GAP = 8  # px between neighbours

BACKGROUND = (24, 26, 30)
PANEL = (36, 39, 45)
RULE = (62, 67, 76)
DIM = (150, 157, 168)
BRIGHT = (236, 239, 244)


def fill(place: np.ndarray, colour: Colour) -> None:
    """Colour a place all over, in place, many times faster than numpy's assignment."""
    cv2.rectangle(place, (0, 0), place.shape[1::-1], colour, cv2.FILLED)


def draw_camera(place: np.ndarray, label: str, picture: np.ndarray | None) -> None:
    """Show a camera's picture in the middle of a place, in place, as large as it fits.

    Args:
        place: (H, W, 3) uint8, all of which is painted.
        label: Of the camera, for the error.
        picture: Of any size (h, w, 3), uint8 RGB; None before the first.

    Raises:
        ValueError: The picture is not (h, w, 3) uint8.
    """
    fill(place, PANEL)
    if picture is None:
        centre = (place.shape[1] // 2 - 40, place.shape[0] // 2)
        draw_text(place, "no picture yet", centre, 13, DIM, width=place.shape[1])
        return
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


def draw_badge(frame: np.ndarray, state: str, corner: tuple[int, int], width: int = 192) -> int:
    """Draw a state as dark text on a round-ended patch of its colour.

    Args:
        frame: Picture (H, W, 3), uint8, drawn on in place.
        state: In a word or two.
        corner: (x, y) of the badge's upper left.
        width: px that the badge may take.

    Returns:
        Where it ends, px from the left.
    """
    x, y, height = *corner, 22
    radius = height // 2
    patch = np.full((height, width, 3), rgb(state_colour(state)), np.uint8)
    width = 2 * radius + draw_text(
        patch, state.upper(), (radius, 16), 12, BACKGROUND, width=width - 2 * radius, bold=True
    )
    mask = np.zeros((height, width), np.uint8)
    ends = (radius, radius), (width - 1 - radius, radius)
    cv2.line(mask, *ends, 255, height - 2, cv2.LINE_AA)
    alpha = mask[..., None] / 255.0
    place = frame[y : y + height, x : x + width]
    place[:] = place + alpha * (patch[:, :width].astype(float) - place) + 0.5
    return x + width


def draw_curve(frame: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    """Draw a line through points (N, 2) of (x, y) px, in place; NaN leaves a gap."""
    runs = known_runs(~np.isnan(points).any(axis=-1))
    fixed = [fixed_point(points[run]) for run in runs]
    cv2.polylines(frame, fixed, False, colour, 2, cv2.LINE_AA, shift=FRACTION)


FRACTION = 4  # fractional bits of OpenCV's coordinates


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) in px as OpenCV takes them with ``shift=FRACTION``."""
    return np.round(points * 2**FRACTION).astype(np.int32)


def known_runs(known: np.ndarray) -> Sequence[slice]:
    """The stretches over which ``known`` (N,) is true."""
    edges = np.flatnonzero(np.diff(np.r_[False, known, False]))
    return [slice(start, end) for start, end in edges.reshape(-1, 2)]
