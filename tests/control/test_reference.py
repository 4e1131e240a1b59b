# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.control.trajectory import Reference

SECOND = 1_000_000_000


def scalar_slope(times: list[float], values: list[float], i: int) -> float:
    """Derivative at knot i of the parabola through its neighbours, kept monotone."""
    if i == 0:
        return (values[1] - values[0]) / (times[1] - times[0])
    if i == len(times) - 1:
        return (values[-1] - values[-2]) / (times[-1] - times[-2])
    left = (values[i] - values[i - 1]) / (times[i] - times[i - 1])
    right = (values[i + 1] - values[i]) / (times[i + 1] - times[i])
    if left * right <= 0:
        return 0.0
    parabola = np.polyfit(np.array(times[i - 1 : i + 2]) - times[i], values[i - 1 : i + 2], 2)
    bound = 3 * min(abs(left), abs(right))
    return max(-bound, min(bound, parabola[1]))


def scalar_cubic(x: float, span: float, p0, v0, p1, v1) -> tuple[float, float]:
    """Value and slope at x of the cubic with these ends, by solving for its coefficients."""
    rows = [[1, 0, 0, 0], [0, 1, 0, 0], [1, span, span**2, span**3], [0, 1, 2 * span, 3 * span**2]]
    a, b, c, d = np.linalg.solve(rows, [p0, v0, p1, v1])
    return a + b * x + c * x**2 + d * x**3, b + 2 * c * x + 3 * d * x**2


def scalar_spline(times: list[float], values: list[float], t: float) -> tuple[float, float]:
    if t < times[0]:
        slope = scalar_slope(times, values, 0)
        return values[0] + slope * (t - times[0]), slope
    k = max(i for i in range(len(times) - 1) if times[i] <= t)
    ends = (values[k], scalar_slope(times, values, k))
    ends += (values[k + 1], scalar_slope(times, values, k + 1))
    return scalar_cubic(t - times[k], times[k + 1] - times[k], *ends)


def scalar_reference(times, values, start, command, blend, t) -> tuple[float, float]:
    blend = max(blend, times[0] - start)
    p, v = scalar_spline(times, values, t)
    if t < start + blend:
        p_start, v_start = scalar_spline(times, values, start)
        offset = (command[0] - p_start, command[1] - v_start)
        p_offset, v_offset = scalar_cubic(t - start, blend, *offset, 0.0, 0.0)
        p, v = p + p_offset, v + v_offset
    return p, v


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 12), st.floats(-1.0, 0.99))
def test_samples_equal_a_scalar_derivation(seed, count, where):
    rng = np.random.default_rng(seed)
    due_ns = 10 * SECOND + np.cumsum(rng.integers(30_000_000, 70_000_000, count))
    targets = rng.normal(0, 1, (count, 2))
    span_ns = due_ns[-1] - due_ns[0] if where > 0 else 400_000_000
    start_ns = int(due_ns[0] + where * span_ns)
    command = rng.normal(0, 1, (2, 2))
    reference = Reference(due_ns, targets, start_ns, command, blend=0.1)
    times = [float(due - due_ns[0]) * 1e-9 for due in due_ns]
    start = (start_ns - int(due_ns[0])) * 1e-9
    out = np.zeros((2, 2))
    for now_ns in np.linspace(start_ns, due_ns[-1], 15).astype(np.int64).tolist():
        reference.sample(now_ns, out)
        t = (now_ns - int(due_ns[0])) * 1e-9
        for i in range(2):
            expected = scalar_reference(times, targets[:, i], start, command[:, i], 0.1, t)
            np.testing.assert_allclose(out[:, i], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("late", [-0.2, 0.03, 0.12])
def test_a_new_chunk_begins_at_the_command_and_ends_on_its_own_targets(late):
    due_ns = 10 * SECOND + np.arange(10) * 50_000_000
    targets = np.linspace(0.0, 0.5, 10)[:, None]
    start_ns = 10 * SECOND + int(late * SECOND)
    command = np.array([[0.3], [-0.7]])
    reference = Reference(due_ns, targets, start_ns, command, blend=0.1)
    out = np.zeros((2, 1))
    reference.sample(start_ns, out)
    np.testing.assert_allclose(out, command, atol=1e-12)
    for due, target in zip(due_ns, targets, strict=True):
        if due >= max(start_ns + 100_000_000, due_ns[0]):
            reference.sample(int(due), out)
            np.testing.assert_allclose(out[0], target, atol=1e-12)


def test_velocity_is_the_derivative_of_position_through_blend_and_knots():
    rng = np.random.default_rng(3)
    due_ns = 10 * SECOND + np.arange(8) * 50_000_000
    command = rng.normal(0, 1, (2, 3))
    reference = Reference(due_ns, rng.normal(0, 1, (8, 3)), 9_990_000_000, command, blend=0.1)
    before, at, after = np.zeros((3, 2, 3))
    for now_ns in range(9_991_000_000, 10_349_000_000, 3_000_000):
        for offset, out in ((-1000, before), (0, at), (1000, after)):
            reference.sample(now_ns + offset, out)
        np.testing.assert_allclose((after[0] - before[0]) / 2e-6, at[1], atol=2e-3)


def test_motion_stays_between_its_targets():
    targets = np.array([0.0, 0.0, 1.0, 1.0, 1.0, 0.2, 0.1, 0.1])[:, None]
    due_ns = 10 * SECOND + np.arange(8) * 50_000_000
    command = np.zeros((2, 1))
    reference = Reference(due_ns, targets, int(due_ns[0]), command, blend=0.1)
    out = np.zeros((2, 1))
    for k in range(7):
        for now_ns in np.linspace(due_ns[k], due_ns[k + 1], 20).astype(np.int64).tolist():
            reference.sample(now_ns, out)
            least, most = sorted(targets[k : k + 2, 0])
            assert least - 1e-12 <= out[0, 0] <= most + 1e-12


def test_a_step_of_the_clock_moves_all_times_alike():
    due_ns = 10 * SECOND + np.arange(5) * 50_000_000
    targets = np.random.default_rng(0).normal(0, 1, (5, 2))
    reference = Reference(due_ns, targets, 10 * SECOND, np.ones((2, 2)), blend=0.1)
    before, after = np.zeros((2, 2, 2))
    reference.sample(10_070_000_000, before)
    reference.shift(-5 * SECOND)
    reference.sample(5_070_000_000, after)
    np.testing.assert_array_equal(before, after)
    assert reference.end_ns == int(due_ns[-1]) - 5 * SECOND
    assert reference.index(5_070_000_000) == 2
