# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased text on pictures.

OpenCV's own letters are ASCII strokes. The outline font that matplotlib carries is set with its
FreeType instead: any Latin, Greek or Cyrillic text, at any size, without a figure around it.
"""

from bisect import bisect_left
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

from vla_nodes.display.style import printable

Colour = tuple[int, int, int]

_FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_ONE_AT_A_TIME = Lock()  # A font keeps the text that was set last.


def rgb(colour: str) -> Colour:
    """Red, green and blue of a ``#rrggbb``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def draw_text(
    frame: np.ndarray,
    text: str,
    origin: tuple[int, int],
    size: int,
    colour: Colour,
    *,
    width: int,
    bold: bool = False,
    right: bool = False,
) -> int:
    """Write one line onto a picture, in place.

    Args:
        frame: Picture (H, W, 3), uint8.
        text: Any text; a mark stands for each letter that the font lacks.
        origin: (x, y) of the line's start on the baseline, or of its end if ``right``.
        size: Of the letters, px.
        colour: As the frame's channels.
        width: px that the line may take; a longer text ends in an ellipsis.
        bold: Heavy letters.
        right: Whether the text ends at the origin instead of starting there.

    Returns:
        px that the line takes.
    """
    ink, descent = _set_line(printable(text), size, width, bold)
    x, y = origin[0] - ink.shape[1] * right, origin[1] + descent - ink.shape[0]
    place = frame[max(y, 0) : y + ink.shape[0], max(x, 0) : x + ink.shape[1]]
    alpha = ink[max(-y, 0) :, max(-x, 0) :][: place.shape[0], : place.shape[1], None] / 255.0
    place[:] = place + alpha * (np.array(colour) - place) + 0.5
    return ink.shape[1]


@lru_cache(maxsize=64)
def wrap_text(
    text: str, size: int, width: int, lines: int, *, bold: bool = False
) -> tuple[str, ...]:
    """Break a text between its words into at most ``lines`` lines of ``width`` px.

    What does not fit stays in the last line, which ``draw_text`` cuts.
    """
    broken: list[str] = []
    for word in printable(text).split():
        longer = f"{broken[-1]} {word}" if broken else word
        if broken and (len(broken) == lines or _fits(longer, size, width, bold)):
            broken[-1] = longer
        else:
            broken.append(word)
    return tuple(broken)


def _fits(line: str, size: int, width: int, bold: bool) -> bool:
    with _ONE_AT_A_TIME:
        font, known = _font(size, bold)
        font.set_text("".join(c if ord(c) in known else _UNKNOWN for c in line))
        return font.get_width_height()[0] // 64 < width


@lru_cache(maxsize=256)  # Most lines stay from frame to frame.
def _set_line(line: str, size: int, width: int, bold: bool) -> tuple[np.ndarray, int]:
    """Coverage (h, w) uint8 of a line cut to fit, and how many px of it lie below the baseline."""
    with _ONE_AT_A_TIME:
        font, known = _font(size, bold)
        line = "".join(c if ord(c) in known else _UNKNOWN for c in line)

        def too_wide(candidate: str) -> bool:
            font.set_text(candidate)
            return font.get_width_height()[0] // 64 + 1 > width  # From 1/64 px, rounded up.

        fits = not too_wide(line)
        if not fits:
            cuts = [line[:end].rstrip() + "…" for end in range(len(line))]
            line = cuts[max(bisect_left(cuts, True, key=too_wide) - 1, 0)]
            fits = not too_wide(line)
        if not line or not fits:
            return np.zeros((0, 0), np.uint8), 0
        font.draw_glyphs_to_bitmap()
        return np.array(font.get_image())[:, :width], round(font.get_descent() / 64)


@cache
def _font(size: int, bold: bool) -> tuple[Any, frozenset[int]]:
    """A font and the code points that it has letters for."""
    font = FT2Font(str(_FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")))
    font.set_size(size, 72)
    return font, frozenset(font.get_charmap())
