# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motion_bench import ACCELERATION, CREEP, DT_MAX, LOWER, UPPER, VELOCITY, small_contract

from vla_nodes.control.limits import Limiter
from vla_nodes.control.parameters import Joints

PAUSES = st.one_of(st.floats(1e-9, DT_MAX), st.just(0.01), st.just(DT_MAX))


def make_limiter() -> Limiter:
    return Limiter(Joints.from_contract(small_contract()), DT_MAX, CREEP)


def reference(positions, velocities=0.0) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.asarray(positions, float), velocities))


def check_step(before, after, dt: float) -> None:
    """One tick against the limits, a joint at a time."""
    for i in range(len(LOWER)):
        (p, v), (p_after, v_after) = (float(x[i]) for x in before), (float(x[i]) for x in after)
        assert LOWER[i] <= p_after <= UPPER[i]
        assert abs(v_after) <= VELOCITY[i] * (1 + 1e-9)
        assert abs(v_after - v) <= ACCELERATION[i] * dt * (1 + 1e-9) + 1e-12
        assert math.isclose(p_after, p + dt * (v + v_after) / 2, abs_tol=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.lists(PAUSES, min_size=1, max_size=60))
def test_every_step_keeps_the_limits_whatever_the_reference_and_the_spacing(seed, pauses):
    rng = np.random.default_rng(seed)
    limiter = make_limiter()
    limiter.seed(rng.uniform(LOWER, UPPER))
    goal = reference(rng.uniform(LOWER - 1, UPPER + 1), rng.normal(0, 3, len(LOWER)))
    for dt in pauses:
        if rng.random() < 0.2:
            goal = reference(rng.normal(0, 10.0 ** rng.integers(-3, 6), len(LOWER)), 1e6)
        before = limiter.position.copy(), limiter.velocity.copy()
        limiter.track(goal, dt) if rng.random() < 0.9 else limiter.brake(dt)
        check_step(before, (limiter.position, limiter.velocity), dt)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-4, DT_MAX))
def test_braking_ends_within_the_braking_time_and_a_tick(seed, pause):
    rng = np.random.default_rng(seed)
    limiter = make_limiter()
    limiter.seed(rng.uniform(LOWER, UPPER))
    for _ in range(int(rng.integers(5, 60))):
        limiter.track(reference(rng.choice([-9.0, 9.0], len(LOWER))), 0.01)
    due = np.abs(limiter.velocity) / ACCELERATION
    spent = 0.0
    while spent < due.max() + DT_MAX:
        dt = rng.uniform(0.1 * pause, pause)
        before = limiter.position.copy(), limiter.velocity.copy()
        limiter.brake(dt)
        spent += dt
        check_step(before, (limiter.position, limiter.velocity), dt)
        assert not limiter.velocity[due < spent * (1 - 1e-9)].any()
        assert (np.abs(limiter.velocity) <= np.abs(before[1])).all()


def test_a_step_is_followed_without_overshoot_in_about_the_least_time():
    limiter = make_limiter()
    start, goal = np.array([-1.0, 0.2, 0.005, 0.1]), np.array([1.0, 1.7, 0.03, 0.9])
    limiter.seed(start)
    distance = goal - start
    # Full acceleration, full speed, full braking; no motion within the limits is faster.
    ramp = np.minimum(VELOCITY / ACCELERATION, np.sqrt(distance / ACCELERATION))
    least = 2 * ramp + (distance - ACCELERATION * ramp**2) / VELOCITY
    arrived = np.full(4, np.inf)
    for k in range(1, 200):
        limiter.track(reference(goal), 0.01)
        assert (limiter.position <= goal + 1e-12).all()
        near = np.abs(goal - limiter.position) < 0.01 * distance
        arrived = np.where(near, np.minimum(arrived, k * 0.01), arrived)
    assert (arrived < least + 0.04).all()
    np.testing.assert_allclose(limiter.position, goal, atol=1e-9)


def test_a_ramp_and_a_parabola_are_met_exactly_after_catching_up():
    limiter = make_limiter()
    limiter.seed(np.array([-1.0, 0.0, 0.01, 0.0]))
    rng = np.random.default_rng(0)
    t, errors = 0.0, []
    for _ in range(160):
        dt = rng.uniform(0.005, 0.02)
        t += dt
        # Accelerations are well within the limits, and so are the speeds until 2 s.
        position = np.array([-0.9 + 0.8 * t, 0.1 + 0.1 * t + 0.2 * t * t, 0.02, 0.3 * t])
        velocity = np.array([0.8, 0.1 + 0.4 * t, 0.0, 0.3])
        limiter.track(np.stack([position, velocity]), dt)
        errors.append(np.abs(limiter.position - position).max())
    assert max(errors[100:]) < 1e-9


def test_a_smooth_wave_is_met_to_the_order_of_jerk_times_dt_cubed():
    limiter = make_limiter()
    limiter.seed(np.array([0.0, 1.0, 0.02, 0.5]))
    amplitude, omega = np.array([0.5, 0.5, 0.01, 0.2]), 3.0
    errors = []
    for k in range(1, 400):
        phase = omega * k * 0.01
        position = np.array([0.0, 1.0, 0.02, 0.5]) + amplitude * math.sin(phase)
        limiter.track(np.stack([position, amplitude * omega * math.cos(phase)]), 0.01)
        errors.append(np.abs(limiter.position - position))
    assert (np.max(errors[200:], axis=0) < amplitude * omega**3 * 0.01**3).all()


def test_a_joint_outside_its_limits_only_creeps_inward():
    limiter = make_limiter()
    start = np.array([UPPER[0] + 0.05, LOWER[1] - 0.02, 0.02, 0.5])
    limiter.seed(start)
    position = start.copy()
    for k in range(60):
        limiter.track(reference([1.9, -1.0, 0.03, 0.6], [1.0, -1.0, 0.0, 0.0]), 0.01)
        assert limiter.position[0] <= position[0]
        assert limiter.position[1] >= position[1]
        assert (np.abs(limiter.velocity[:2]) <= CREEP * VELOCITY[:2] * (1 + 1e-9)).all()
        position = limiter.position.copy()
        if k == 10:
            assert UPPER[0] < position[0] < start[0]
    np.testing.assert_allclose(position[:2], [UPPER[0], LOWER[1]], atol=1e-4)


@pytest.mark.parametrize("seconds", [0.01, 10.0])
def test_speed_lost_in_silence_is_what_braking_would_have_cost(seconds):
    limiter = make_limiter()
    limiter.seed(np.array([0.0, 1.0, 0.02, 0.5]))
    for _ in range(5):
        limiter.track(reference([-1.0, 2.0, 0.02, 0.5]), 0.01)
    before = limiter.velocity.copy()
    limiter.lose(seconds)
    expected = np.sign(before) * np.maximum(np.abs(before) - ACCELERATION * seconds, 0.0)
    np.testing.assert_allclose(limiter.velocity, expected)
