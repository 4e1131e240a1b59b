# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.monitoring.frame_history import FrameHistory


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=60),
    st.integers(1, 5),
    st.floats(0.02, 1.0),
)
def test_of_each_time_it_is_the_nearest_of_all_frames(
    steps_ms: list[int], count: int, step: float
) -> None:
    history: FrameHistory[int] = FrameHistory(count, step)
    stamps = np.cumsum(steps_ms) * 1_000_000
    for index, stamp in enumerate(stamps):
        history.add(int(stamp), index)
        wanted = [stamp - back * round(step * 1e9) for back in reversed(range(count))]
        seen = stamps[: index + 1]
        distances = [np.abs(seen - at).min() for at in wanted]
        found = [abs(seen[frame] - at) for frame, at in zip(history.frames(), wanted, strict=True)]
        assert found == distances


def test_at_the_beginning_the_first_frame_stands_for_those_before_it() -> None:
    history: FrameHistory[str] = FrameHistory(3, 0.5)
    history.add(10**9, "a")
    assert history.frames() == ["a", "a", "a"]
    history.add(10**9 + 500_000_000, "b")
    assert history.frames() == ["a", "a", "b"]
    history.clear()
    with pytest.raises(LookupError):
        history.frames()


def test_a_time_before_the_newest_begins_anew() -> None:
    history: FrameHistory[str] = FrameHistory(2, 0.5)
    history.add(9 * 10**9, "late")
    history.add(10**9, "early")
    assert history.frames() == ["early", "early"]


def test_it_keeps_no_more_than_an_estimate_looks_back() -> None:
    history: FrameHistory[int] = FrameHistory(3, 0.5)
    for index in range(10_000):
        history.add(index * 50_000_000, index)
    assert len(history._frames) <= 22
    assert history.frames() == [9979, 9989, 9999]
