# SPDX-License-Identifier: Apache-2.0
"""The overlay shows what it is given, wherever that is, and never breaks its frame."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.display.lettering import draw_text, rgb
from vla_nodes.display.overlay import (
    BACKGROUND,
    GAP,
    HEIGHT,
    MAIN,
    MARGIN,
    PANEL,
    VALUE,
    VALUE_BAR,
    WIDTH,
    RunPicture,
    compose,
)
from vla_nodes.display.style import RED, SKY, STATE_COLOURS

SEEN = np.full((360, 480, 3), (200, 120, 40), np.uint8)
SMALL = np.full((96, 96, 3), (10, 220, 90), np.uint8)
RUN = RunPicture(SEEN, (("front", SMALL), ("wrist", SMALL)), "clear the table")


def bar_top(frame: np.ndarray) -> float:
    """Value that the bar shows: the share of its height that has the accent's colour, less 1."""
    x, y, width, height = VALUE
    column = frame[y : y + height, x + width + GAP + VALUE_BAR // 2]
    return (column == rgb(SKY)).all(axis=1).mean() - 1


def is_background(frame: np.ndarray) -> np.ndarray:
    return (frame == BACKGROUND).all(axis=-1)


def test_the_frame_can_be_encoded_as_yuv420p() -> None:
    frame = compose(RUN)
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert frame.dtype == np.uint8
    assert HEIGHT % 2 == WIDTH % 2 == 0


def test_the_main_picture_and_the_insets_are_shown_unaltered() -> None:
    frame = compose(RUN)
    width, height = MAIN
    assert (frame[MARGIN : MARGIN + height, MARGIN : MARGIN + width] == SEEN).all()
    column = frame[MARGIN : MARGIN + height, WIDTH - MARGIN - 40]
    assert (column == SMALL[0, 0]).all(axis=1).sum() > 0.8 * height


def test_margins_stay_clear() -> None:
    blank = is_background(compose(RUN))
    assert blank[:MARGIN].all()
    assert blank[:, :MARGIN].all()
    assert blank[:, WIDTH - MARGIN :].all()
    assert blank[HEIGHT - MARGIN :].all()


@pytest.mark.parametrize("shape", [(96, 96), (90, 640), (600, 20), (1, 1)])
def test_a_picture_keeps_its_proportions(shape: tuple[int, int]) -> None:
    frame = compose(RunPicture(np.full((*shape, 3), 255, np.uint8)))
    shown = (frame == 255).all(axis=-1)[MARGIN : MARGIN + MAIN[1]]
    height, width = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert abs(height / width - shape[0] / shape[1]) <= 0.6 / width * max(1, shape[0] / shape[1])
    assert height == MAIN[1] or width == WIDTH - 2 * MARGIN


@pytest.mark.parametrize("value", [-1.0, -0.75, -0.5, -0.2, 0.0])
def test_the_bar_stands_at_the_value(value: float) -> None:
    assert bar_top(compose(replace(RUN, value=value))) == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize(("value", "shown"), [(-7.0, -1.0), (3.0, 0.0), (-math.inf, -1.0)])
def test_a_value_beyond_its_range_fills_or_empties_the_bar(value: float, shown: float) -> None:
    assert bar_top(compose(replace(RUN, value=value))) == pytest.approx(shown, abs=0.02)


def test_an_unknown_value_leaves_the_bar_empty() -> None:
    x, y, width, height = VALUE
    bar = compose(RUN)[y : y + height, x + width + GAP : x + width + GAP + VALUE_BAR]
    assert (bar == PANEL).all()


def test_the_curve_ends_at_the_newest_value_and_leaves_gaps() -> None:
    values = np.full(400, -0.8)
    values[200:] = -0.3
    values[100:150] = math.nan
    x, y, width, height = VALUE
    curve = (compose(replace(RUN, values=values))[y : y + height, x : x + width] == rgb(SKY)).all(
        -1
    )
    heights = [
        1 - np.flatnonzero(column).mean() / (height - 1) if column.any() else math.nan
        for column in curve.T
    ]
    share = np.arange(width) / width
    assert heights[-2] == pytest.approx(0.7, abs=0.02)
    assert np.nanmean(np.array(heights)[share < 0.24]) == pytest.approx(0.2, abs=0.02)
    assert not curve[:, (share > 0.27) & (share < 0.36)].any()


@pytest.mark.parametrize("state", STATE_COLOURS)
def test_the_badge_has_the_colour_of_its_state(state: str) -> None:
    place = compose(replace(RUN, state=state))[MAIN[1] + MARGIN + 8 :, : VALUE[0] - 20]
    assert (place == rgb(STATE_COLOURS[state])).all(axis=-1).sum() > 500


def test_states_are_told_apart_from_running() -> None:
    assert RED == STATE_COLOURS["e-stop"] == STATE_COLOURS["aborted"]
    assert len({STATE_COLOURS[s] for s in ("running", "success", "stalled", "aborted")}) == 4


def test_a_long_text_is_cut_with_an_ellipsis_before_the_next_column() -> None:
    short, long = (compose(replace(RUN, task=text * 40)) for text in ("", "put the cube away "))
    changed = np.flatnonzero((short != long).any(axis=(0, 2)))
    assert VALUE[0] - 60 < changed.max() < VALUE[0] - 12


def test_a_cut_text_is_the_longest_that_fits() -> None:
    wide = np.zeros((30, 400, 3), np.uint8)
    full = draw_text(wide, "gripper", (0, 20), 14, (255, 255, 255), width=400)
    for width in range(full, 0, -1):
        page = np.zeros((30, 400, 3), np.uint8)
        used = draw_text(page, "gripper", (0, 20), 14, (255, 255, 255), width=width)
        assert used <= width
        assert width - used < 22 or used == 0, "one more letter would have fitted"


def test_text_that_starts_outside_is_cut_at_the_edge() -> None:
    page = np.zeros((10, 10, 3), np.uint8)
    for origin in ((-5, 5), (5, 3), (5, 15), (-300, 5), (300, 5), (5, 300), (5, -300)):
        draw_text(page, "gripper", origin, 14, (255, 255, 255), width=400)
    assert page.any()


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(max_size=600),
    number=st.floats(),
    values=st.lists(st.floats(), max_size=200),
)
def test_anything_gives_a_frame(text: str, number: float, values: list[float]) -> None:
    picture = RunPicture(
        SEEN, [(text, SMALL)] * 6, text, text, text, number, number, values, number
    )
    assert is_background(compose(picture))[:, WIDTH - MARGIN :].all()


def test_no_picture_yet_gives_a_frame() -> None:
    assert compose(RunPicture(None)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 0, 3), np.uint8)],
    ids=["float", "grey", "empty"],
)
def test_another_kind_of_picture_is_refused_by_name(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"picture 'wrist' is .*; it must be uint8 RGB"):
        compose(replace(RUN, insets=[("wrist", picture)]))
