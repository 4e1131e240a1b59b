# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vla_nodes.models.prompts import actor_prompt, planner_prompt, state_bins

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def digitized(state: np.ndarray) -> np.ndarray:
    """As LeRobot's processor does it, and with what lies under its first edge in the first bin."""
    return np.clip(np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1, 0, 255)


@settings(deadline=None)
@given(arrays(np.float64, array_shapes(max_dims=3), elements=FINITE))
def test_bins_are_those_of_digitize(state: np.ndarray):
    np.testing.assert_array_equal(state_bins(state), digitized(state))


@settings(deadline=None)
@given(arrays(np.float32, 8, elements=st.floats(-1.25, 1.25, width=32)))
def test_bins_of_float32_are_those_of_digitize(state: np.ndarray):
    np.testing.assert_array_equal(state_bins(state), digitized(state))


def test_every_edge_and_its_neighbours_fall_into_the_right_bin():
    edges = np.linspace(-1, 1, 257)
    np.testing.assert_array_equal(state_bins(edges), [*range(256), 255])
    np.testing.assert_array_equal(state_bins(np.nextafter(edges, -2)), [0, *range(256)])
    np.testing.assert_array_equal(state_bins(np.nextafter(edges, 2)), [*range(256), 255])


def test_a_padded_element_is_in_the_middle():
    assert state_bins([0.0]).tolist() == [128]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_refused_by_its_place(bad: float):
    with pytest.raises(ValueError, match=rf"state \[1, 2\] is {bad}, expected a finite"):
        state_bins([[0.0, 0.0, 0.0], [0.0, 0.0, bad]])


def test_prompts_are_as_published_to_the_character():
    assert planner_prompt("stack the cups", [0, 17, 255]) == (
        "Task: stack the cups, State: 0 17 255;\nSubtask: "
    )
    assert actor_prompt("reach", state_bins([-1.0, 0.0, 1.0])) == (
        "Task: reach, State: 0 128 255;\nAction: "
    )


def test_the_advantage_comes_behind_the_words():
    assert actor_prompt(" reach ", [3], positive=True) == (
        "Task: reach\nAdvantage: positive, State: 3;\nAction: "
    )
    assert actor_prompt("reach", [3], positive=False) == (
        "Task: reach\nAdvantage: negative, State: 3;\nAction: "
    )


def test_underscores_and_line_breaks_of_words_become_spaces():
    text = "\n pick_the\nred__cube \n\n"
    assert planner_prompt(text, [1]) == "Task: pick the red  cube, State: 1;\nSubtask: "
    assert actor_prompt(text, [1]) == "Task: pick the red  cube, State: 1;\nAction: "


@settings(deadline=None)
@given(st.text(max_size=50), st.lists(st.integers(0, 255), min_size=1, max_size=8))
def test_words_cannot_begin_a_line_of_their_own(text: str, bins: list[int]):
    prompt = actor_prompt(text, bins)
    assert prompt.count("\n") == 1
    assert prompt.endswith(";\nAction: ")


@settings(deadline=None)
@given(st.text(max_size=50), st.lists(st.integers(0, 255), min_size=1, max_size=8))
def test_prompts_are_those_of_lerobots_recipe(text: str, bins: list[int]):
    cleaned = text.strip().replace("_", " ").replace("\n", " ")
    state = " ".join(map(str, bins))
    assert actor_prompt(text, bins) == f"Task: {cleaned}, State: {state};\nAction: "
