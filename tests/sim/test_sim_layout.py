# SPDX-License-Identifier: Apache-2.0
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.sim.layout import AREA, SPACING, LayoutOptions, sample_layout
from vla_nodes.sim.scene import COLOURS, CUBE, DISTRACTORS, TRAY_INNER


@given(st.integers(0, 10_000), st.integers(0, 4), st.integers(0, 4))
def test_objects_keep_their_distance_from_each_other_and_the_tray(seed, cubes, distractors):
    options = LayoutOptions(cubes=cubes, distractors=distractors)
    layout = sample_layout(np.random.default_rng(seed), options)
    points = [pose[:2] for pose in layout.objects.values()]
    assert len(points) == cubes + distractors
    assert sum(name in DISTRACTORS for name in layout.objects) == distractors
    for point in points:
        assert (point >= AREA[0]).all()
        assert (point <= AREA[1]).all()
        assert np.abs(point - layout.tray).max() > TRAY_INNER + CUBE / 2
    assert all(np.linalg.norm(a - b) >= SPACING for a, b in combinations(points, 2))


def test_colours_name_exactly_the_cubes():
    layout = sample_layout(np.random.default_rng(0), LayoutOptions(colours=("blue", "red")))
    assert set(layout.objects) == {"blue_cube", "red_cube"}


def test_random_colours_are_all_drawn():
    rng = np.random.default_rng(0)
    drawn = {n for _ in range(50) for n in sample_layout(rng, LayoutOptions(cubes=1)).objects}
    assert drawn == {f"{colour}_cube" for colour in COLOURS}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": ("pink",)}, r"unknown cube colours \['pink'\]; known are"),
        ({"cubes": 5}, r"cubes is 5; it must lie in 0\.\.4"),
        ({"distractors": -1}, r"distractors is -1; it must lie in 0\.\.4"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LayoutOptions(**options)
