# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.sim.scene import COLOURS, TRAY_INNER
from vla_nodes.sim.tasks import CLEAR, inside_tray, next_subtask, parse_task, subtask_text


@pytest.mark.parametrize("colour", COLOURS)
def test_a_cube_is_named_by_its_colour(colour):
    assert parse_task(f" Put the {colour} cube in the tray\n").colours == (colour,)


def test_clearing_the_table_names_the_cubes_that_are_there():
    assert parse_task(CLEAR, ("yellow", "red")).colours == ("red", "yellow")


def test_an_unknown_text_is_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"unknown task 'fly away'.*clear the table.*red cube"):
        parse_task("fly away")


def test_an_absent_cube_is_refused_with_what_is_present():
    with pytest.raises(ValueError, match=r"no red cube; present are \['blue', 'green'\]"):
        parse_task(subtask_text("red"), ("green", "blue"))


@given(st.sets(st.sampled_from(list(COLOURS))), st.sets(st.sampled_from(list(COLOURS))))
def test_doing_subtask_after_subtask_ends_with_all_cubes_in_the_tray(present, in_tray):
    task, done = parse_task(CLEAR, present), set(in_tray)
    steps = 0
    while (text := next_subtask(task, done)) is not None:
        (colour,) = parse_task(text, present).colours
        assert colour not in done
        done.add(colour)
        steps += 1
    assert done >= present
    assert steps == len(present - in_tray)


@pytest.mark.parametrize(
    ("offset", "z", "inside"),
    [
        ((0.0, 0.0), 0.021, True),
        ((0.055, -0.055), 0.021, True),
        ((TRAY_INNER, 0.0), 0.038, False),
        ((0.0, -TRAY_INNER), 0.021, False),
        ((0.0, 0.0), 0.06, False),
        ((0.0, 0.0), -1.0, False),
        ((0.12, 0.0), 0.018, False),
    ],
)
def test_inside_the_tray_means_between_the_walls_and_low(offset, z, inside):
    tray = np.array([0.27, -0.22])
    assert inside_tray(np.array([*(tray + offset), z]), tray) is inside
