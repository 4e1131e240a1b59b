# SPDX-License-Identifier: Apache-2.0
"""Anything may happen in any order: what holds whatever does."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from motion_bench import (
    ACCELERATION,
    HOME,
    PERIOD_NS,
    UPPER,
    VELOCITY,
    Oracle,
    make_chunk,
    small_contract,
)

from vla_nodes.control import MotionCore, State

SECOND = 1_000_000_000
BRAKING_NS = int((VELOCITY / ACCELERATION).max() * SECOND) + 1
PAUSES = st.one_of(
    st.integers(PERIOD_NS // 2, 2 * PERIOD_NS),
    st.sampled_from([0, -1, -PERIOD_NS, 1, 1000, 4 * PERIOD_NS, 21 * PERIOD_NS]),
    st.integers(45 * PERIOD_NS, 300 * PERIOD_NS),
)


class AnyOrder(RuleBasedStateMachine):
    """Knows of each event only whether the robot may be driven after it."""

    def __init__(self) -> None:
        super().__init__()
        self.core = MotionCore(small_contract())
        self.oracle = Oracle()
        self.steady_ns = 3 * SECOND
        self.clock_ns = 50 * SECOND
        self.robot = HOME.copy()
        self.goal = 0
        self.latched = self.pressed = False
        self.driven = False
        self.halted_ns = self.steady_ns
        self.last_ns = self.steady_ns
        self.last = np.zeros((2, 4))

    @property
    def clocks(self) -> tuple[int, int]:
        return self.steady_ns + self.clock_ns, self.steady_ns

    def halt(self) -> None:
        """From the last tick on, nothing may be driven."""
        if self.driven:
            self.driven = False
            self.halted_ns = self.last_ns

    @rule(pause_ns=PAUSES)
    def tick(self, pause_ns):
        now_ns = self.steady_ns + pause_ns
        self.steady_ns = max(self.steady_ns, now_ns)
        command = self.core.tick(now_ns + self.clock_ns, now_ns)
        assert np.isfinite([command.positions, command.velocities]).all()
        if not command.publish:
            return
        assert now_ns > self.last_ns
        self.oracle.see(now_ns, command)
        if command.state != State.MOVING:
            self.halt()
        self.check_halted(now_ns, command)
        self.last[:] = command.positions, command.velocities
        self.last_ns = now_ns
        self.robot = command.positions.copy()

    def check_halted(self, now_ns, command) -> None:
        """Speed only falls, is gone after the braking time, and then nothing moves."""
        if self.driven or now_ns - self.last_ns > SECOND // 2:
            return
        positions, velocities = self.last
        assert (np.abs(command.velocities) <= np.abs(velocities)).all()
        if now_ns - self.halted_ns >= BRAKING_NS:
            assert not command.velocities.any()
        if not velocities.any():
            np.testing.assert_array_equal(command.positions, positions)

    @rule(ticks=st.integers(1, 80), seed=st.integers(0, 1000))
    def run_well(self, ticks, seed):
        """All inputs arrive as they should, with some jitter."""
        rng = np.random.default_rng(seed)
        for _ in range(ticks):
            self.core.lease(self.goal, self.steady_ns)
            self.core.measure(self.robot + rng.normal(0, 0.002, 4), *self.clocks)
            self.tick(int(rng.uniform(0.6, 1.4) * PERIOD_NS))

    @rule(kind=st.sampled_from(["good", "nan", "far", "shape", "future", "old", "outside"]))
    def measure(self, kind):
        positions = {
            "nan": self.robot * np.nan,
            "far": self.robot + 1.0,
            "shape": np.zeros(3),
            "outside": np.maximum(self.robot, UPPER + 0.01),
        }.get(kind, self.robot)
        age = {"future": -3 * SECOND, "old": SECOND}.get(kind, 0)
        self.core.measure(positions, self.clocks[0] - age, self.steady_ns)

    @rule(
        seed=st.integers(0, 2**32),
        pace=st.sampled_from([0.1, 0.5, 2.0]),
        rows=st.integers(2, 60),
        age=st.sampled_from([-0.5, -0.04, 0.0, 0.0, 0.1, 0.3, 0.9, 2.0]),
        garbage=st.sampled_from([None, None, None, np.nan, np.inf, 1e300, -5.0]),
        relative=st.booleans(),
    )
    def offer(self, seed, pace, rows, age, garbage, relative):
        rng = np.random.default_rng(seed)
        steps = rng.normal(0, pace * 0.05, (rows, 4)) * VELOCITY
        targets = np.cumsum(steps, axis=0) + (0 if relative else self.robot)
        if garbage is not None:
            targets[rng.integers(rows), rng.integers(4)] = garbage
        stamp_ns = self.clocks[0] - int(age * SECOND)
        chunk = make_chunk(targets, stamp_ns, self.goal, relative=relative)
        refusal = self.core.offer(chunk, *self.clocks)
        if refusal is None:
            assert np.isfinite(targets).all()
            assert -0.05 <= age <= 1.0
            assert not self.latched
            assert self.goal > 0
            self.driven = True

    @rule(which=st.sampled_from(["same", "same", "new", "new", "older", "none"]))
    def lease(self, which):
        self.goal += which == "new"
        goal = {"none": 0, "older": self.goal - 1}.get(which, self.goal)
        self.core.lease(goal, self.steady_ns)
        if which == "new" or goal == 0:
            self.halt()

    @rule(pressed=st.booleans())
    def estop(self, pressed):
        self.core.estop(pressed)
        self.pressed = pressed
        if pressed:
            self.latched = True
            self.halt()

    @rule()
    def reset(self):
        stopped = self.core.state in (State.ESTOPPED, State.TRIPPED)
        if self.core.reset() is None:
            assert not self.pressed
            assert self.core.at_rest
            self.latched = False
            if stopped:
                # It holds where the robot has come to be meanwhile.
                self.oracle.forget()
                self.last_ns = self.steady_ns - SECOND

    @rule()
    def activate(self):
        if self.core.state == State.INACTIVE and self.core.activate(*self.clocks) is None:
            self.oracle.forget()
            self.last_ns = self.steady_ns - SECOND

    @rule()
    def deactivate(self):
        self.core.deactivate()
        self.halt()

    @rule()
    def recover(self):
        """What an operator would do to get going again."""
        self.estop(False)
        self.run_well(40, 0)
        self.reset()
        self.measure("good")
        self.activate()
        self.lease("new")

    @rule(seconds=st.sampled_from([-5, 5, -0.2, 0.2]))
    def step_clock(self, seconds):
        self.clock_ns += int(seconds * SECOND)

    @invariant()
    def no_limit_is_broken(self):
        assert self.oracle.violations == []

    @invariant()
    def the_estop_is_latched(self):
        assert (self.core.state == State.ESTOPPED) == self.latched

    @invariant()
    def driving_needs_a_chunk_that_was_accepted(self):
        assert self.driven or self.core.state != State.MOVING


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
