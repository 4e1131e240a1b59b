# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.inference.decided import delay, unexecuted


def motion(time: np.ndarray) -> np.ndarray:
    """A straight motion of two joints, (..., 2)."""
    return np.stack([0.3 * time + 1.0, -2.0 * time], axis=-1)


@given(
    steps=st.integers(1, 30),
    dt=st.floats(0.01, 0.2),
    passed=st.floats(0.0, 40.0),
)
def test_it_is_what_the_old_chunk_does_at_the_new_due_times(
    steps: int, dt: float, passed: float
) -> None:
    due = (np.arange(steps) + 1) * dt  # after the old observation
    left = unexecuted(motion(due).astype(np.float32), passed)
    new_due = passed * dt + due
    expected = motion(new_due[new_due <= due[-1] + 1e-12])
    assert abs(len(left) - len(expected)) <= 1  # a row due just as the old chunk ends
    count = min(len(left), len(expected))
    np.testing.assert_allclose(left[:count], expected[:count], atol=2e-5)


def test_whole_periods_only_drop_rows() -> None:
    chunk = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for passed in range(8):
        np.testing.assert_array_equal(unexecuted(chunk, float(passed)), chunk[passed:])


@pytest.mark.parametrize("passed", [7.01, 100.0, -0.5])
def test_nothing_is_left_of_a_chunk_that_has_run_out_or_lies_ahead(passed: float) -> None:
    assert unexecuted(np.ones((8, 3), np.float32), passed).shape == (0, 3)


@pytest.mark.parametrize(("latency", "count"), [(0.001, 1), (0.05, 1), (0.051, 2), (0.2, 4)])
def test_an_action_counts_as_past_when_its_period_has_begun(latency: float, count: int) -> None:
    assert delay(latency, 0.05) == count
