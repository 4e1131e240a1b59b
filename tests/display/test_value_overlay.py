# SPDX-License-Identifier: Apache-2.0
"""The overlay shows value, band and distribution where their numbers say, whatever they are."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.display.drawing import BACKGROUND, MARGIN, RULE
from vla_nodes.display.lettering import draw_text, rgb, wrap_text
from vla_nodes.display.style import STATE_COLOURS, value_state
from vla_nodes.display.value_overlay import (
    ATOMS,
    CAMERA,
    COLUMN,
    HEIGHT,
    HISTOGRAM,
    PLOT,
    WIDTH,
    ValuePicture,
    compose_value,
    value_row,
)

SEEN = np.full((90, 120, 3), (200, 120, 40), np.uint8)
TIMES = np.linspace(500.0, 520.0, 201)
RUN = ValuePicture(SEEN, "clear the table", "grasp the red cube", "running")
ACCENT = rgb(STATE_COLOURS["running"])
X, Y, WIDE, HIGH = PLOT


def run_of(values: np.ndarray, **others: object) -> np.ndarray:
    """A frame with a curve; values by time since the beginning of the plot."""
    return compose_value(replace(RUN, times=TIMES, values=values, **others))


def curve(frame: np.ndarray) -> np.ndarray:
    """The value that the curve shows in each column of the plot, NaN where there is none."""
    shown = (frame[Y : Y + HIGH, X : X + WIDE] == ACCENT).all(axis=-1)
    rows = np.arange(HIGH)[:, None]
    count = shown.sum(axis=0)
    means = (shown * rows).sum(axis=0) / np.maximum(count, 1)
    return np.where(count, -means / (HIGH - 1), math.nan)


def bars(frame: np.ndarray) -> np.ndarray:
    """Lengths of the distribution's bars in px, from the atom at -1 to the one at 0."""
    x, width = HISTOGRAM
    blank = compose_value(RUN)[Y : Y + HIGH, x : x + width]
    return (frame[Y : Y + HIGH, x : x + width] != blank).any(axis=-1).sum(axis=1)[::-1]


def test_the_frame_can_be_encoded_as_yuv420p_and_its_margins_stay_clear() -> None:
    frame = run_of(np.full(201, -1.0), probabilities=np.full(ATOMS, 1 / ATOMS), state="success")
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert HEIGHT % 2 == WIDTH % 2 == 0
    blank = (frame == BACKGROUND).all(axis=-1)
    blank[MARGIN : HEIGHT - MARGIN, MARGIN : WIDTH - MARGIN] = True
    assert blank.all()


def test_the_camera_is_shown_unaltered() -> None:
    frame = compose_value(RUN)
    width, height = CAMERA
    assert (frame[MARGIN : MARGIN + height, MARGIN : MARGIN + width] == SEEN[0, 0]).all()


@pytest.mark.parametrize("value", [-1.0, -0.8, -0.505, -0.25, 0.0])
def test_the_curve_runs_in_the_row_of_its_value(value: float) -> None:
    shown = curve(run_of(np.full(201, value)))[:-12]
    edge = 0.005 if value in (-1.0, 0.0) else 0.003  # Half of the line lies beyond the plot.
    assert np.abs(shown - value).max() < edge
    assert value_row(value) == Y + round(-200 * value)


def test_a_value_beyond_its_range_is_shown_at_the_edge() -> None:
    assert np.abs(curve(run_of(np.full(201, 7.0)))[:-12]).max() < 0.01
    assert value_row(-math.inf) == Y + 200


def test_the_curve_stands_at_the_times_of_its_values() -> None:
    """A step 5 s ago, in samples that come ever faster."""
    times = 520.0 - 20.0 * np.linspace(1.0, 0.0, 500) ** 2
    values = np.where(times < 515.0, -0.9, -0.2)
    shown = curve(compose_value(replace(RUN, times=times, values=values)))
    step = np.flatnonzero(shown > -0.5)[0]
    assert step / (WIDE - 1) == pytest.approx(0.75, abs=0.005)


def test_a_short_history_begins_where_its_first_time_is() -> None:
    shown = curve(compose_value(replace(RUN, times=[8.0, 10.0], values=[-0.6, -0.4])))
    first = np.flatnonzero(~np.isnan(shown))[0]
    assert first / (WIDE - 1) == pytest.approx(0.9, abs=0.005)


def test_what_is_older_than_the_plot_ends_at_its_edge() -> None:
    shown = curve(compose_value(replace(RUN, times=[0.0, 30.0, 35.0], values=[-0.4] * 3)))
    assert not np.isnan(shown[:-12]).any()


def test_unknown_values_leave_a_gap() -> None:
    values = np.full(201, -0.5)
    values[100:150] = math.nan
    shown = curve(run_of(values))
    share = np.arange(WIDE) / (WIDE - 1)
    assert np.isnan(shown[(share > 0.51) & (share < 0.74)]).all()
    assert not np.isnan(shown[(share < 0.49) | ((share > 0.76) & (share < 0.97))]).any()


def test_the_band_reaches_from_its_lower_to_its_upper_edge() -> None:
    low, high = np.full(201, -0.9), np.full(201, -0.3)
    frame = run_of(np.full(201, -0.5), low=low, high=high)
    column = frame[Y : Y + HIGH, X + 40]
    inside = np.flatnonzero(column[:, 2] > RULE[2] + 5)[[0, -1]]
    assert -inside / (HIGH - 1) == pytest.approx([-0.3, -0.9], abs=0.006)
    assert bars(frame).sum() == 0, "a band without a distribution has no bars"


def test_the_bars_are_as_long_as_the_probabilities_are_great() -> None:
    mass = np.random.default_rng(3).gamma(0.5, size=ATOMS)
    probabilities = mass / mass.sum()
    lengths = bars(compose_value(replace(RUN, probabilities=probabilities)))
    assert np.abs(lengths - HISTOGRAM[1] * mass / mass.max()).max() <= 0.51
    shares = lengths / lengths.sum()
    assert shares @ np.linspace(-1, 0, ATOMS) == pytest.approx(
        probabilities @ np.linspace(-1, 0, ATOMS), abs=0.01
    )


@pytest.mark.parametrize("atom", [0, 1, 77, 199, 200])
def test_each_atom_has_the_row_of_its_value(atom: int) -> None:
    probabilities = np.zeros(ATOMS)
    probabilities[atom] = 1.0
    frame = compose_value(replace(RUN, probabilities=probabilities))
    assert np.flatnonzero(bars(frame)).tolist() == [atom]
    assert value_row(-1 + atom / 200) == Y + 200 - atom


def test_bars_within_the_band_have_the_full_colour() -> None:
    edges = {"low": np.full(201, -0.75), "high": np.full(201, -0.25)}
    frame = run_of(np.full(201, -0.5), **edges, probabilities=np.full(ATOMS, 1 / ATOMS))
    full = (frame[Y : Y + HIGH, HISTOGRAM[0] + 5] == ACCENT).all(axis=-1)
    assert np.flatnonzero(full)[[0, -1]].tolist() == [50, 150]


@pytest.mark.parametrize("state", STATE_COLOURS)
def test_badge_and_curve_have_the_colour_of_the_state(state: str) -> None:
    frame = run_of(np.full(201, -0.5), state=state)
    colour = rgb(STATE_COLOURS[state])
    badge = frame[MARGIN : MARGIN + 22, COLUMN:]
    assert (badge == colour).all(axis=-1).sum() > 400
    assert (frame[value_row(-0.5), X : X + 500] == colour).all()


def test_a_stall_shows_while_running_and_hides_no_outcome() -> None:
    def frame(state: str, stalled: bool) -> np.ndarray:
        return compose_value(replace(RUN, state=state, stalled=stalled))

    assert (frame("running", True) == frame("stalled", False)).all()
    assert (frame("success", True) == frame("success", False)).all()


def test_the_state_is_the_event_that_matters_most() -> None:
    assert value_state(finished=True, dropped=True, stalled=True) == "finished"
    assert value_state(finished=False, dropped=True, stalled=True) == "dropped"
    assert value_state(finished=False, dropped=False, stalled=True) == "stalled"
    assert value_state(finished=False, dropped=False, stalled=False) == "running"


@pytest.mark.parametrize(
    "change",
    [
        *({"task": "sort"}, {"subtask": "lift"}, {"value": -0.4}, {"trend": 0.1}),
        *({"energy": 0.3}, {"age": 0.2}, {"camera": None}),
        {"probabilities": np.full(ATOMS, 1 / ATOMS)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_known_is_shown(change: dict) -> None:
    assert (compose_value(replace(RUN, **change)) != compose_value(RUN)).any()


def test_a_long_text_is_wrapped_without_losing_a_word() -> None:
    text = "lift the small blue gear off the peg, turn it over and lay it on the tray"
    lines = wrap_text(text, 15, 200, 9)
    assert " ".join(lines) == text
    assert len(lines) > 2
    words = text.split()
    for line, following in zip(lines, (*lines[1:], ""), strict=True):
        page = np.zeros((30, 400, 3), np.uint8)
        assert draw_text(page, line, (0, 20), 15, (255,) * 3, width=400) <= 200
        if following:
            longer = f"{line} {following.split()[0]}"
            assert draw_text(page, longer, (0, 20), 15, (255,) * 3, width=400) > 200
    assert wrap_text(text, 15, 200, 2)[-1].split() == words[len(lines[0].split()) :]
    assert wrap_text("", 15, 200, 2) == ()


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(max_size=600),
    number=st.floats(),
    values=st.lists(st.floats(), max_size=60),
    mass=st.floats(),
)
def test_anything_gives_a_frame(text: str, number: float, values: list, mass: float) -> None:
    picture = ValuePicture(
        *(SEEN, text, text, text, number, sorted(values), values, values, values[::-1]),
        *(np.full(ATOMS, mass), number, number, True, number),
    )
    with np.errstate(all="ignore"):
        frame = compose_value(picture)
    assert (frame[:, WIDTH - MARGIN :] == BACKGROUND).all()


def test_before_the_first_estimate_it_says_so() -> None:
    frame = compose_value(ValuePicture())
    blank_plot = run_of(np.full(201, math.nan))
    for shown in (frame, blank_plot):
        words = shown[Y + 90 : Y + 110, X + 200 : X + 400]
        assert (words.max(axis=-1) > 120).any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 2 times but \(1, 0, 0\) values, low and high"):
        ValuePicture(times=[0.0, 1.0], values=[-0.5])
    with pytest.raises(ValueError, match=r"probabilities has shape \(51,\); it must have \(201,\)"):
        ValuePicture(probabilities=np.full(51, 1 / 51))
    with pytest.raises(ValueError, match=r"picture 'camera' is float64 .*; it must be uint8 RGB"):
        compose_value(ValuePicture(np.zeros((4, 4, 3))))
