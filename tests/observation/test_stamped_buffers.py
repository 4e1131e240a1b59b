# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_samples import EPOCH, MS

from vla_nodes.observation.buffers import Frame, ImageBuffer, StateBuffer, stamp_fault

STARTS = st.sampled_from([1, EPOCH])
GAPS = st.lists(st.integers(1, 30 * MS), min_size=1, max_size=40)


def filled(start, gaps, capacity, seed=0):
    """A buffer and the samples that it should hold."""
    stamps = [start + sum(gaps[: i + 1]) for i in range(len(gaps))]
    values = np.random.default_rng(seed).uniform(-3, 3, (len(stamps), 2))
    buffer = StateBuffer(2, capacity)
    for stamp, value in zip(stamps, values, strict=True):
        buffer.append(stamp, value)
    return buffer, stamps[-capacity:], values[-capacity:]


def exact(stamps, values, stamp):
    """Interpolation in rational numbers by walking all pairs; None outside."""
    for i, (first, last) in enumerate(pairwise(stamps)):
        if first <= stamp <= last:
            part = Fraction(stamp - first, last - first)
            pairs = zip(values[i], values[i + 1], strict=True)
            return [float(Fraction(a) + (Fraction(b) - Fraction(a)) * part) for a, b in pairs]
    return list(values[0]) if stamps == [stamp] else None


@settings(deadline=None)
@given(STARTS, GAPS, st.integers(1, 50), st.data())
def test_interpolation_agrees_with_rational_arithmetic(start, gaps, capacity, data):
    buffer, stamps, values = filled(start, gaps, capacity)
    stamp = data.draw(
        st.integers(stamps[0] - 2, stamps[-1] + 2) | st.sampled_from(stamps), label="stamp"
    )
    expected = exact(stamps, values, stamp)
    if expected is None:
        with pytest.raises(LookupError):
            buffer.interpolate(stamp)
    else:
        np.testing.assert_allclose(buffer.interpolate(stamp), expected, rtol=0, atol=2e-15)


@settings(deadline=None)
@given(STARTS, GAPS, st.integers(1, 50), st.data())
def test_a_bracket_is_the_nearest_sample_on_either_side(start, gaps, capacity, data):
    buffer, stamps, _ = filled(start, gaps, capacity)
    stamp = data.draw(st.integers(stamps[0] - 2, stamps[-1] + 2) | st.sampled_from(stamps))
    before = max((s for s in stamps if s <= stamp), default=None)
    after = min((s for s in stamps if s >= stamp), default=None)
    assert buffer.bracket(stamp) == (before, after)
    assert buffer.newest == stamps[-1]


@settings(deadline=None)
@given(STARTS, GAPS, st.integers(1, 50))
def test_at_a_sample_its_very_values_come_back(start, gaps, capacity):
    buffer, stamps, values = filled(start, gaps, capacity)
    for stamp, value in zip(stamps, values, strict=True):
        np.testing.assert_array_equal(buffer.interpolate(stamp), value)


def test_a_nanosecond_matters_in_the_year_2026():
    buffer = StateBuffer(1, 4)
    buffer.append(EPOCH, np.array([0.0]))
    buffer.append(EPOCH + 10, np.array([10.0]))
    assert [buffer.interpolate(EPOCH + i)[0] for i in range(11)] == list(range(11))


def test_what_is_interpolated_is_a_copy():
    buffer, stamps, values = filled(EPOCH, [5, 5], 4)
    buffer.interpolate(stamps[0])[:] = 99
    np.testing.assert_array_equal(buffer.interpolate(stamps[0]), values[0])


def test_a_cleared_buffer_is_as_new():
    buffer, stamps, _ = filled(EPOCH, [5, 5, 5], 2)
    buffer.clear()
    assert buffer.newest is None
    assert buffer.bracket(stamps[-1]) == (None, None)
    buffer.append(7, np.array([1.0, 2.0]))
    assert buffer.bracket(8) == (7, None)


@settings(deadline=None)
@given(STARTS, GAPS, st.integers(1, 50), st.data())
def test_the_newest_frame_not_after_a_stamp_is_found(start, gaps, capacity, data):
    stamps = [start + sum(gaps[: i + 1]) for i in range(len(gaps))]
    buffer = ImageBuffer(capacity)
    for stamp in stamps:
        buffer.append(Frame(stamp, message=stamp))
    kept = stamps[-capacity:]
    stamp = data.draw(st.integers(kept[0] - 2, kept[-1] + 2) | st.sampled_from(kept))
    expected = max((s for s in kept if s <= stamp), default=None)
    assert buffer.bracket(stamp) == (expected, expected)
    if expected is None:
        with pytest.raises(LookupError):
            buffer.not_after(stamp)
    else:
        assert buffer.not_after(stamp).message == expected


@pytest.mark.parametrize(
    ("stamp", "newest", "fault"),
    [
        (EPOCH, None, None),
        (EPOCH + 1, EPOCH, None),
        (EPOCH, EPOCH, "duplicate"),
        (EPOCH - 1, EPOCH, "out_of_order"),
        (EPOCH - 499_999_999, EPOCH, "out_of_order"),
        (EPOCH - 500_000_000, EPOCH, "clock_jump"),
        (1, EPOCH, "clock_jump"),
        (0, EPOCH, "unstamped"),
        (0, None, "unstamped"),
        (EPOCH + 50 * MS, EPOCH, None),
        (EPOCH + 50 * MS + 1, EPOCH, "future"),
        (EPOCH + 50 * MS + 1, None, "future"),
    ],
)
def test_stamps_are_judged_by_their_order(stamp, newest, fault):
    assert stamp_fault(stamp, newest, receive=EPOCH) == fault
