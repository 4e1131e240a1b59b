# SPDX-License-Identifier: Apache-2.0
"""A small robot to command, chunks to offer, and an oracle that sees only what is sent."""

from collections.abc import Sequence

import numpy as np

from vla_nodes.contract.schema import ActionSource, Contract, Gripper, JointLimits, StateSource
from vla_nodes.control import Command, OfferedChunk

PERIOD_NS = 10_000_000
DT_MAX = 0.03
CREEP = 0.1
JOINTS = ("lift", "elbow", "slide", "jaw")
LIMITS = (
    JointLimits(-1.6, 1.6, 2.5, 15.0),
    JointLimits(-0.2, 2.8, 3.0, 20.0),
    JointLimits(0.0, 0.04, 0.2, 2.0),
    JointLimits(0.0, 1.0, 4.0, 40.0),
)
JAW = Gripper(low=0.0, high=1.0, threshold=0.5, hysteresis=0.1)
LOWER = np.array([limit.lower for limit in LIMITS])
UPPER = np.array([limit.upper for limit in LIMITS])
VELOCITY = np.array([limit.velocity for limit in LIMITS])
ACCELERATION = np.array([limit.acceleration for limit in LIMITS])
HOME = np.array([0.1, 0.5, 0.02, 0.0])


def small_contract(fps: float = 20.0) -> Contract:
    """Four joints, the last a gripper that switches; no camera."""
    arm = ActionSource(
        name="arm",
        topic="/arm/joint_trajectory",
        type="trajectory_msgs/msg/JointTrajectory",
        joints=JOINTS,
        limits=LIMITS,
        grippers=(None, None, None, JAW),
    )
    state = StateSource(name="arm", topic="/joint_states", joints=JOINTS, max_age=0.1)
    return Contract("bench", fps, "header", "arm", 0.05, (), (state,), (arm,))


def make_chunk(
    targets: Sequence, stamp_ns: int, goal: int = 1, fps: float = 20.0, **changes
) -> OfferedChunk:
    """A chunk as a policy would send it, rows due from one period after the stamp."""
    targets = np.asarray(targets)
    due_ns = stamp_ns + np.round((1 + np.arange(len(targets))) * 1e9 / fps).astype(np.int64)
    fields = {
        "stamp_ns": stamp_ns,
        "goal": goal,
        "sequence": 0,
        "joints": JOINTS,
        "positions": targets,
        "due_ns": due_ns,
    }
    return OfferedChunk(**(fields | changes))


class Oracle:
    """Holds what is sent against the limits.

    It keeps the last two commands and knows the limits, nothing else. A silence of half a
    second begins a new stream. A stream may begin outside the position limits; then it may
    only go inward, at creep speed.

    Attributes:
        violations: What was broken, in words.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self._last: tuple[int, np.ndarray, np.ndarray] | None = None
        self._slope: tuple[float, np.ndarray] | None = None

    def forget(self) -> None:
        """The stream ends on purpose."""
        self._last = self._slope = None

    def see(self, steady_ns: int, command: Command) -> None:
        p, v = command.positions.copy(), command.velocities.copy()
        if not (np.isfinite(p).all() and np.isfinite(v).all()):
            self.violations.append(f"{steady_ns}: not finite: {p} {v}")
        if self._last is None or steady_ns - self._last[0] > 500_000_000:
            self._lower, self._upper = np.minimum(LOWER, p), np.maximum(UPPER, p)
            self._slope = None
        else:
            self._compare(steady_ns, p, v, *self._last)
        self._last = (steady_ns, p, v)

    def _compare(self, now_ns, p, v, before_ns, p_before, v_before) -> None:
        dt = (now_ns - before_ns) * 1e-9
        if dt <= 0:
            self.violations.append(f"{now_ns}: time went by {dt} s")
            return
        outside = (p_before < LOWER) | (p_before > UPPER)
        speed = np.where(outside, CREEP * VELOCITY, VELOCITY)
        self._demand(now_ns, "position", (p < self._lower) | (p > self._upper))
        self._demand(now_ns, "speed", np.abs(p - p_before) > speed * dt * (1 + 1e-9) + 1e-12)
        self._demand(now_ns, "velocity", np.abs(v) > VELOCITY * (1 + 1e-9))
        self._demand(
            now_ns, "acceleration", np.abs(v - v_before) > ACCELERATION * dt * (1 + 1e-9) + 1e-12
        )
        self._lower = np.minimum(LOWER, np.maximum(self._lower, p))
        self._upper = np.maximum(UPPER, np.minimum(self._upper, p))
        if dt > DT_MAX:
            self._slope = None
            return
        self._demand(now_ns, "consistency", np.abs(p - p_before - dt * (v + v_before) / 2) > 1e-12)
        slope = (p - p_before) / dt
        if self._slope is not None:
            dt_before, slope_before = self._slope
            # Differences of positions near 1 are good to 1e-15 or so, divided by both steps.
            rounding = 4e-15 * (1 / dt + 1 / dt_before)
            bound = ACCELERATION * (dt + dt_before) / 2 * (1 + 1e-9) + rounding
            self._demand(now_ns, "second difference", np.abs(slope - slope_before) > bound)
        self._slope = (dt, slope)

    def _demand(self, now_ns: int, what: str, broken: np.ndarray) -> None:
        if broken.any():
            self.violations.append(f"{now_ns}: {what} of {np.array(JOINTS)[broken]}")
